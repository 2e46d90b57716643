"""Hubs that break off or answer with something else: one sentence, and the next try succeeds."""

import socket
import time

import pytest

from storyboard.errors import BaseError
from storyboard.models import repository, weights
from storyboard.models.download import CACHE
from storyboard.models.hubs import HubModel
from tests import hub_server, huggingface_server

FILE = "adapter/model.safetensors"
CONTENT = bytes(range(256)) * 400
MODELS = {"ModelScope": HubModel("someone/it"), "Hugging Face": HubModel(huggingface="someone/it")}
PATIENCE = 45  # seconds until a hub's failure is said
# these clients try again for minutes, which is what they are for
PATIENT = {("ModelScope", "broken off"), ("ModelScope", "file 500"), ("Hugging Face", "file 500")}


@pytest.fixture
def hubs(tmp_path, monkeypatch):
    """By their names, two hubs that have the same file."""
    running = {
        "ModelScope": hub_server.Hub(tmp_path / "ms"),
        "Hugging Face": huggingface_server.HuggingFace(tmp_path / "hf"),
    }
    for hub in running.values():
        path = hub.root / "someone" / "it" / FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    monkeypatch.delenv("STORYBOARD_HUB", raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", running["ModelScope"].url)
    monkeypatch.setenv("HF_ENDPOINT", running["Hugging Face"].url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield running
    for hub in running.values():
        hub.close()


def is_file(handler):
    return handler.path.endswith(FILE) or "FilePath=" in handler.path


def status(code):
    def fault(handler):
        handler.answer(code, b'{"error": "no"}')
        return True

    return fault


def for_the_file(fault):
    return lambda handler: is_file(handler) and fault(handler)


def page(handler):
    """A web page in the place of the file, as the login page of a network gives it."""
    if handler.command == "HEAD":
        return False
    handler.answer(200, b"<!DOCTYPE html><html><body>Log in</body></html>")
    return True


def reset(handler):
    if handler.command == "HEAD":
        return False
    handler.start(200, len(CONTENT), {})
    handler.wfile.write(CONTENT[:1000])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def listing_page(handler):
    handler.answer(200, b"<!DOCTYPE html><html></html>", {"Content-Type": "text/html"})
    return True


def odd_listing(handler):
    handler.answer(200, b'{"siblings": [{"rfilename": 5}], "Data": {"Files": [{"Path": 5}]}}')
    return True


FAULTS = {
    "401": status(401),
    "403": status(403),
    "404": status(404),
    "429": status(429),
    "500": status(500),
    "file 401": for_the_file(status(401)),
    "file 404": for_the_file(status(404)),
    "file 500": for_the_file(status(500)),
    "a page for a file": for_the_file(page),
    "broken off": for_the_file(reset),
    "a page for a list": listing_page,
    "an odd list": odd_listing,
}


CASES = [(name, case) for name in MODELS for case in FAULTS if (name, case) not in PATIENT]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES)
def test_what_a_hub_does_wrong_is_one_sentence_and_the_next_try_succeeds(
    hubs, name, case, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the clients' tries
    hubs[name].fault = FAULTS[case]
    began = time.perf_counter()
    with pytest.raises(
        BaseError, match=f"it could not be fetched .{name}: .*run this cell again"
    ) as error:
        weights.fetch_module(MODELS[name], "it", (FILE,))
    message, seconds = str(error.value), time.perf_counter() - began
    assert "\n" not in message and len(message) < 600 and seconds < PATIENCE

    hubs[name].fault = None
    assert (weights.fetch_module(MODELS[name], "it", (FILE,)) / FILE).read_bytes() == CONTENT


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_file_that_was_spoilt_in_the_cache_is_fetched_anew(hubs, name, damage):
    path = weights.fetch_module(MODELS[name], "it", (FILE,)) / FILE
    if damage == "cut":
        path.write_bytes(CONTENT[:500])
    else:
        path.unlink()
    assert (weights.fetch_module(MODELS[name], "it", (FILE,)) / FILE).read_bytes() == CONTENT


def test_a_note_of_an_earlier_release_names_the_folder_alone(hubs, tmp_path):
    folder = weights.fetch_module(MODELS["ModelScope"], "it", (FILE,))
    (note,) = (tmp_path / "cache").glob("*.txt")
    note.write_text(f"{folder}\n", encoding="utf-8")
    hubs["ModelScope"].refusing = True
    assert weights.fetch_module(MODELS["ModelScope"], "it", (FILE,)) == folder
    note.write_bytes(b"\xff\xfe\0")
    with pytest.raises(BaseError, match="could not be fetched"):
        weights.fetch_module(MODELS["ModelScope"], "it", (FILE,))


@pytest.mark.parametrize(
    "name", ["../evil.json", "a/../../evil.json", "/etc/passwd", "a\\b.json", "a//b", "a/\n.json"]
)
def test_names_that_lead_out_of_a_repository_are_not_listed(name):
    assert not repository.is_inside(name) and repository.is_inside("unet/config.json")
