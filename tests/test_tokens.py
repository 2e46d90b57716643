"""The hubs' tokens are in no message, whether a variable, a file or a caller holds them."""

import pytest

from storyboard.data import hub
from storyboard.errors import KeepingError
from storyboard.keeping.repository import Repository
from storyboard.models import hubs, tokens, uploading
from storyboard.places import RepositoryId

SECRET = "-".join(["ms", "averysecrettoken"])  # a traceback quotes this file


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """Nobody is logged in; the clients' files are those of the test."""
    for name in tokens.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))


def log_in(where, monkeypatch, folder):
    if where in tokens.VARIABLES:
        monkeypatch.setenv(where, f"{SECRET}\n")
    elif where == "huggingface":
        (folder / "token").write_text(SECRET)
    else:
        from modelscope_hub.config import HubConfig

        HubConfig().save_token(SECRET)


@pytest.mark.parametrize("where", [*tokens.VARIABLES, "huggingface", "modelscope"])
def test_a_token_is_masked_wherever_it_is_kept(nobody, where, monkeypatch, tmp_path):
    log_in(where, monkeypatch, tmp_path)
    error = RuntimeError("x" * 190 + f" https://oauth2:{SECRET}@host failed")  # cut off within

    def failing(*_):
        raise error

    monkeypatch.setattr(uploading, "_modelscope", failing)
    told = [
        hubs.reason(error),
        uploading.send("modelscope", "me/story", tmp_path, "", True),
        str(hub._explained(error, "me/set", tmp_path, 0)),
    ]
    assert not [line for line in told if "secret" in line or "ms-" in line]


def test_a_header_that_is_quoted_shows_no_token_that_is_kept_elsewhere(nobody):
    line = hubs.reason(ValueError(f"bad header value: 'Bearer {SECRET}\\n'"))
    assert line == "ValueError bad header value: 'Bearer ***'"


def test_a_client_that_fails_to_say_its_token_hides_nothing_else(nobody, monkeypatch):
    def failing():
        raise RuntimeError("the host's store of secrets is away")

    monkeypatch.setattr("huggingface_hub.get_token", failing)
    assert hubs.reason(OSError("no route to host")) == "OSError no route to host"


@pytest.mark.parametrize("call", ["sizes", "fetch"])
def test_a_place_that_cannot_be_read_quotes_no_token(nobody, monkeypatch, call):
    def refusing(self):
        raise ValueError(f"bad header value: 'Bearer {SECRET}'")

    monkeypatch.setattr(Repository, "_hub", refusing)
    place = Repository(RepositoryId("modelscope", "me/story"))
    with pytest.raises(KeepingError, match="modelscope:me/story cannot be read") as error:
        place.sizes() if call == "sizes" else place.fetch(["a"])
    assert "secret" not in str(error.value)
