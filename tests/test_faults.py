"""Folders and files that are not ours, and disks that refuse: what stages do about them."""

import errno
import shutil

import pytest
from safetensors import SafetensorError

from storyboard import artifacts, clean, collect, disks, locks, render, train
from storyboard.errors import ResourceError, SettingsError, StoryboardError
from tests.conftest import picture

FULL = OSError(errno.ENOSPC, "No space left on device")


# ---------------------------------------------------------------- what is not ours


@pytest.mark.parametrize("name", ["collected", "cleaned", "lora", "cache/latents"])
@pytest.mark.parametrize("kind", ["folder", "file", "foreign manifest", "dangling link"])
def test_a_folder_of_the_users_own_is_refused_before_any_work(
    folder, captions, make_settings, name, kind
):
    settings = make_settings(dataset=str(folder))
    path = settings.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
        if kind == "foreign manifest":
            (path / "manifest.json").write_text('{"name": "an extension", "files": {}}')
    before = sorted(settings.folder.rglob("*"))
    stage = {
        "collected": lambda: collect(settings),
        "cleaned": lambda: clean(captions, settings),
    }.get(name, lambda: train(captions, settings))
    with pytest.raises(SettingsError, match="is not a folder that Storyboard made.*move it away"):
        stage()
    assert sorted(settings.folder.rglob("*")) == before


def test_files_that_a_user_put_into_a_folder_of_ours_stay(tmp_path):
    def make(name):
        with artifacts.building(tmp_path / "made") as folder:
            (folder / name).write_text(name)
            artifacts.write_manifest(folder, "test", name)

    make("one")
    mine = tmp_path / "made" / "notes" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    make("two")
    assert mine.read_text() == "mine" and not (tmp_path / "made" / "one").exists()
    assert artifacts.finished(tmp_path / "made", "two")

    (tmp_path / "made" / "three").write_text("mine")
    with pytest.raises(SettingsError, match="three is not a file that Storyboard made"):
        make("three")
    assert (tmp_path / "made" / "three").read_text() == "mine"
    assert artifacts.finished(tmp_path / "made", "two")


def test_a_link_to_a_folder_elsewhere_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "made").symlink_to("elsewhere")
    with artifacts.building(tmp_path / "made") as folder:
        artifacts.write_manifest(folder, "test", "abc")
    assert (tmp_path / "made").is_symlink() and artifacts.finished(tmp_path / "elsewhere", "abc")


@pytest.mark.parametrize("name", ["../outside", "/etc/hosts", "a/../../b", "a\0b"])
def test_a_manifest_that_names_files_elsewhere_is_none(tmp_path, name):
    content = {"stage": "test", "fingerprint": "abc", "files": {name: 1}}
    artifacts.write_json(tmp_path / "manifest.json", content)
    assert artifacts.read_manifest(tmp_path) is None


@pytest.mark.parametrize("name", ["panel-2.png", "story.png", "story.json", "manifest.json"])
def test_a_picture_of_the_users_own_is_not_drawn_over(trained, tmp_path, name):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    mine = tmp_path / "story" / name
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    if name == "manifest.json":
        (mine.parent / "panel-1.png").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="is not a file that Storyboard made: move it away"):
        render(story, settings, lora)
    assert mine.read_bytes() == b"mine"


def test_pictures_of_the_users_own_beside_the_story_stay(trained, tmp_path):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    for name in ("panel-7.png", "character.png", "notes.txt"):
        (tmp_path / "story").mkdir(exist_ok=True)
        (tmp_path / "story" / name).write_bytes(b"mine")
    render(story, settings, lora)
    render(type(story)(list(story.panels[:1])), settings, lora)
    names = sorted(path.name for path in (tmp_path / "story").glob("[!.]*"))
    drawn = ["manifest.json", "panel-1.png", "story.json", "story.png"]
    assert names == sorted([*drawn, "panel-7.png", "character.png", "notes.txt"])


def test_only_what_training_kept_is_taken_away(trained, tmp_path):
    settings, _, captions, _ = trained
    again = settings.but(output=str(tmp_path))
    shutil.copytree(settings.folder / "lora", tmp_path / "lora")
    mine = [tmp_path / ".checkpoint" / name for name in ("a.txt", "0" * 16 + "/b.txt", "own/c")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    stale = tmp_path / ".checkpoint" / ("0" * 16) / "state.safetensors"
    stale.write_text("of a training with other settings")
    train(captions, again)
    assert [path for path in mine if not path.exists()] == [] and not stale.exists()


# ---------------------------------------------------------------- disks that refuse


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "became full: free some space or set output to another disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "became full"),
        (OSError(errno.EROFS, "Read-only file system"), r"\(Read-only file system\): make it"),
        (PermissionError(errno.EACCES, "Permission denied"), r"\(Permission denied\): make it"),
        (OSError(errno.EIO, "Input/output error"), r"\(Input/output error\): look after"),
        (OSError(errno.EFBIG, "File too large"), r"\(File too large\): look after"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "in its way.*move that away"),
    ],
)
def test_whatever_a_disk_refuses_is_one_sentence(tmp_path, error, words):
    with pytest.raises(ResourceError, match=words) as refused, disks.writing(tmp_path / "a.png"):
        raise error
    assert str(tmp_path / "a.png") in str(refused.value) and "\n" not in str(refused.value)


def test_a_full_disk_is_known_by_the_words_of_libraries(tmp_path):
    wrapped = SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
    arrow = ValueError("[Errno 28] Error writing bytes to file")
    from_full = ValueError("cannot write")
    from_full.__cause__ = FULL
    assert all(map(disks.disk_is_full, (wrapped, arrow, from_full)))
    assert not any(
        map(disks.disk_is_full, (OSError(errno.ENOENT, "gone"), ValueError("28"), ValueError()))
    )
    with pytest.raises(ResourceError, match="became full"), disks.working_in(tmp_path):
        raise wrapped


def test_what_libraries_cannot_read_elsewhere_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError), disks.working_in(tmp_path / "outputs"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.png"))
    inside = str(tmp_path / "outputs" / "a.png")
    with pytest.raises(ResourceError), disks.working_in(tmp_path / "outputs"):
        raise PermissionError(errno.EACCES, "Permission denied", inside)


def refuses(monkeypatch, at, error=FULL):
    """``Path.write_bytes`` raises from its ``at``-th call on; returns what is counted."""
    from pathlib import Path

    real, calls = Path.write_bytes, []

    def write_bytes(path, content):
        calls.append(path)
        if len(calls) >= at:
            raise error
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    return calls


def test_a_full_disk_while_collecting_is_not_an_unreadable_picture(
    folder, make_settings, monkeypatch
):
    picture(50).convert("RGBA").save(folder / "rgba.png")  # written anew, not copied
    settings = make_settings(dataset=str(folder))
    with monkeypatch.context() as patch:
        refuses(patch, 1)
        with pytest.raises(ResourceError, match="became full"):
            collect(settings)
    assert not settings.folder.exists() or list(settings.folder.iterdir()) == []
    assert len(collect(settings)) == 11


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_a_full_disk_while_drawing_keeps_what_was_drawn(trained, tmp_path, monkeypatch, at):
    settings, story, _, lora = trained
    settings = settings.but(output=str(tmp_path))
    shutil.copytree(trained[0].folder / "cache", tmp_path / "cache")
    with monkeypatch.context() as patch:
        refuses(patch, at)
        with pytest.raises(ResourceError, match="became full"):
            render(story, settings, lora)
    assert not (tmp_path / locks.STATE).exists()
    assert len(render(story, settings, lora).paths) == 3


def test_output_that_is_a_file_is_refused_in_a_sentence(folder, make_settings, tmp_path):
    (tmp_path / "afile").write_text("mine")
    for output in (tmp_path / "afile", tmp_path / "afile" / "below"):
        with pytest.raises(StoryboardError, match="afile"):
            collect(make_settings(dataset=str(folder), output=str(output)))
