"""Keeping in a repository at a hub, and bringing back; a server stands in for both hubs."""

from types import SimpleNamespace

import pytest

from storyboard import keep, restore
from storyboard.errors import KeepingError
from storyboard.keeping import copies
from storyboard.keeping.along import Along
from storyboard.keeping.copies import StoredFile
from storyboard.keeping.repository import Repository
from storyboard.models import uploading
from storyboard.places import RepositoryId
from tests import kept
from tests.upload_server import TOKEN, UploadHub

HUBS = ("modelscope", "huggingface")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in; its clients are logged in, with caches of the test."""
    made = UploadHub()
    made.lfs = True
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, made.url)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    for name in ("HF_HOME", "MODELSCOPE_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # the stand-in has no such store
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", HUBS)
def test_what_is_kept_at_a_hub_comes_back(kept_settings, elsewhere, hub, name, capfd):
    place = f"{name}:me/story"
    keep(kept_settings, place)
    assert hub.private, "nobody else sees it"
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1 and f"kept in {place};" in printed.out
    assert TOKEN not in printed.out and printed.err == ""

    kept.make(kept_settings, 2)
    keep(kept_settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(kept_settings.folder)
    assert not any(TOKEN.encode() in content for content in hub.files.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", HUBS)
def test_only_what_changed_is_sent_again_and_old_files_go(kept_settings, hub, name):
    place = f"{name}:me/story"
    keep(kept_settings, place)
    sent = len(hub.files)
    asked = len(hub.asked)
    assert keep(kept_settings, place).copied == 0
    assert len(hub.files) == sent
    assert not [line for line in hub.asked[asked:] if "commit" in line]
    for number in (2, 3):
        kept.make(kept_settings, number)
        keep(kept_settings, place)
    states = sorted(path for path in hub.files if "/state-" in path)
    begins = f".checkpoint/{kept.TRAINING}/state-000"
    assert [state[: len(begins) + 1] for state in states] == [f"{begins}2", f"{begins}3"]


@pytest.mark.parametrize("name", HUBS)
def test_a_public_repository_is_refused_unless_it_is_wanted(kept_settings, hub, name):
    hub.exists = True
    with pytest.raises(KeepingError, match=f"{name}:me/story is not private, and a copy"):
        keep(kept_settings, f"{name}:me/story")
    assert hub.files == {}
    keep(kept_settings, f"{name}:me/story", private=False)
    assert hub.files


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_with_other_files_is_refused(kept_settings, hub, name):
    hub.exists = hub.private = True
    hub.files = {"README.md": b"# mine", ".gitattributes": b"", "lora/a-0001.safetensors": b"mine"}
    with pytest.raises(KeepingError, match="holds other files, such as lora/a-0001.safetensors"):
        keep(kept_settings, f"{name}:me/story")
    assert len(hub.files) == 3


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_that_is_not_seen_is_told(kept_settings, hub, name):
    with pytest.raises(KeepingError, match="shows no repository me/story: log its client in"):
        restore(kept_settings, f"{name}:me/story")
    hub.exists = hub.private = True
    assert restore(kept_settings, f"{name}:me/story").files == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", HUBS)
def test_an_upload_that_breaks_off_leaves_the_copy_before(kept_settings, elsewhere, hub, name):
    place = f"{name}:me/story"
    keep(kept_settings, place)
    expected = kept.worth_keeping(kept_settings.folder)
    kept.make(kept_settings, 2)
    commits = []

    def refuses_the_list(method, path):
        """The files arrive, the list of the copy does not."""
        if "/commit/" in path:
            commits.append(path)
            if len(commits) == 2:
                return 400, {"error": "no"}
        return None

    hub.fault = refuses_the_list
    with pytest.raises(KeepingError, match="did not take me/story .*the copy before is untouched"):
        keep(kept_settings, place)
    hub.fault = None
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == expected


@pytest.mark.parametrize(
    ("visibility", "is_public"), [(1, False), (3, True), (5, True), (None, True)]
)
def test_at_modelscope_only_what_is_said_to_be_private_is(hub, monkeypatch, visibility, is_public):
    hub.exists = True
    data = {"Code": 200, "Success": True, "Data": {"Visibility": visibility}}
    hub.fault = lambda method, path: (200, data)
    assert uploading.is_public("modelscope", "me/story") is is_public


def test_a_size_that_a_hub_does_not_list_is_not_missing(monkeypatch):
    listed = {"lora/lora-0001.safetensors": 0, "story/story-0001.png": 3}
    monkeypatch.setattr(Repository, "_hub", lambda self: SimpleNamespace(files=lambda: listed))
    sizes = Repository(RepositoryId("modelscope", "me/story")).sizes()
    for name, is_there in zip(listed, (True, False), strict=True):
        assert copies.is_there(StoredFile(at=name, size=4, digest="0" * 64), sizes) is is_there


def test_a_hub_that_is_away_is_one_sentence(kept_settings, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(KeepingError, match="huggingface:me/story cannot be read|is private") as e:
        keep(kept_settings, "huggingface:me/story")
    assert "\n" not in str(e.value)


def test_a_hub_that_is_away_when_training_begins_is_told(
    kept_settings, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    along = Along(kept_settings.but(keep_in="huggingface:me/story"), "train")
    along.check()
    line = "train: what is made is not kept: huggingface:me/story cannot be read"
    assert capsys.readouterr().out.startswith(line)
    along.keep()
    assert along.failure and str(along) == ", but not kept in huggingface:me/story"


@pytest.mark.parametrize("name", HUBS)
def test_a_public_repository_is_told_before_training(kept_settings, hub, name):
    hub.exists = True
    with pytest.raises(KeepingError, match="is not private"):
        Along(kept_settings.but(keep_in=f"{name}:me/story"), "train").check()
