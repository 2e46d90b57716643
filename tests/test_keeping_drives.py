"""Drives that drop out while they are worked with: the place is named, and training goes on."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from storyboard import artifacts, keep, restore
from storyboard.errors import ResourceError, UnreachableError
from storyboard.keeping import folder as keeping_folder
from storyboard.keeping.along import Along
from tests import kept

GONE = (errno.ENOTCONN, errno.ESTALE, errno.EIO)


@pytest.fixture
def drops_out(place, monkeypatch):
    """Lets every look at the drive fail with a number of the operating system."""

    def drop(number):
        def failing(real):
            def call(path=".", *arguments, **named):
                if str(path).startswith(str(place.parent)):
                    raise OSError(number, os.strerror(number), str(path))
                return real(path, *arguments, **named)

            return call

        for name in ("stat", "lstat", "listdir", "scandir", "open"):
            monkeypatch.setattr(os, name, failing(getattr(os, name)))

    return drop


@pytest.mark.parametrize("number", GONE)
def test_a_drive_that_drops_out_does_not_end_training(
    kept_settings, place, drops_out, number, capsys
):
    along = Along(kept_settings.but(keep_in=place), "train")
    along.check()
    along.keep()
    capsys.readouterr()
    drops_out(number)
    along.keep()
    line = f"train: what is made is not kept: {place} cannot be read ({os.strerror(number)}): see"
    assert capsys.readouterr().out.startswith(line)
    assert str(along) == f", but not kept in {place}"


@pytest.mark.parametrize("number", GONE)
@pytest.mark.parametrize("call", [keep, restore])
def test_a_drive_that_dropped_out_is_named(kept_settings, place, drops_out, number, call):
    keep(kept_settings, place)
    drops_out(number)
    with pytest.raises(UnreachableError, match=r"drive/story cannot be read \(") as error:
        call(kept_settings, place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", GONE)
def test_a_drive_that_drops_out_amid_restoring_changes_nothing(
    kept_settings, elsewhere, place, monkeypatch, number
):
    keep(kept_settings, place)
    real = keeping_folder.Path.open

    def failing(path, *arguments, **named):
        if path.name.startswith("story-0001-") and path.suffix == ".png":
            raise OSError(number, "gone")
        return real(path, *arguments, **named)

    monkeypatch.setattr(keeping_folder.Path, "open", failing)
    with pytest.raises(UnreachableError, match=r"story-0001-\w+.png cannot be read \("):
        restore(elsewhere, place)
    assert kept.tree(elsewhere.folder) == {}


def test_what_else_fails_while_it_is_kept_does_not_end_training(kept_settings, place, monkeypatch):
    def failing(settings):
        raise OSError(errno.ENOTCONN, "gone")

    monkeypatch.setattr("storyboard.keeping.contents.write_notes", failing)
    along = Along(kept_settings.but(keep_in=place), "train")
    along.keep()
    assert along.failure


@pytest.fixture
def another_disk():
    """A folder on another disk than the tests' own."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("there is no second disk here")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_is_a_link_to_another_disk_comes_back_there(
    kept_settings, elsewhere, place, another_disk, monkeypatch
):
    keep(kept_settings, place)
    linked = another_disk / "lora"
    linked.mkdir()
    elsewhere.folder.mkdir(parents=True)
    (elsewhere.folder / "lora").symlink_to(linked)
    if artifacts.disk_of(linked) == artifacts.disk_of(elsewhere.folder):
        pytest.skip("there is no second disk here")

    free = {artifacts.disk_of(linked): 10}

    def usage(path):
        return SimpleNamespace(free=free.get(artifacts.disk_of(path), 10**9))

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.shutil, "disk_usage", usage)
        with pytest.raises(ResourceError, match="lora lacks 1 MB for what was kept"):
            restore(elsewhere, place)
    restore(elsewhere, place)
    assert kept.tree(linked) == kept.tree(kept_settings.folder / "lora")
    assert (elsewhere.folder / "lora").is_symlink()
    assert [path.name for path in another_disk.iterdir()] == ["lora"]
