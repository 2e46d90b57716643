"""Keeping in a folder, and bringing back."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from storyboard import Settings, artifacts, keep, locks, restore
from storyboard.errors import KeepingError, ResourceError, SettingsError
from storyboard.keeping import folder as keeping_folder
from tests import kept


@pytest.fixture
def settings(tmp_path):
    """Settings whose output folder is worth keeping."""
    made = Settings(output=tmp_path / "outputs", rank=8)
    kept.make(made)
    return made


@pytest.fixture
def place(tmp_path):
    """A folder as a drive would be mounted."""
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive" / "story"


@pytest.fixture
def elsewhere(settings, tmp_path):
    """The same settings on another machine."""
    return settings.but(output=tmp_path / "another" / "outputs")


def lists(place):
    return sorted(path.name for path in place.glob("kept-*.json"))


# ---------------------------------------------------------------- there and back


def test_what_is_worth_keeping_comes_back_byte_for_byte(settings, elsewhere, place, capsys):
    done = keep(settings, place)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith(f"keep: {len(done.files)} files, 0.0 MB, are kept in {place}; ")
    assert "the same disk as" in line, "as a folder of the test is"

    back = restore(elsewhere, place)
    assert capsys.readouterr().out == f"{back}\n"
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(settings.folder)
    assert artifacts.finished(elsewhere.folder / "lora", "abc")
    assert not (elsewhere.folder / "collected").exists()
    assert not (elsewhere.folder / locks.STATE).exists()


def test_settings_recipe_and_captions_are_kept(settings, elsewhere, place, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("process: []", encoding="utf-8")
    keep(settings.but(recipe=recipe, dataset=os.fsdecode(b"\xc4\xe3")), place)
    restore(elsewhere, place)
    notes = kept.tree(elsewhere.folder / "kept")
    assert json.loads(notes["settings.json"])["rank"] == 8
    assert notes["recipe.yaml"] == b"process: []"
    assert notes["collected.jsonl"] == b"captions of collected"
    assert notes["cleaned.jsonl"] == b"captions of cleaned"


def test_a_restored_folder_keeps_the_captions_that_came_with_it(settings, elsewhere, place):
    keep(settings, place)
    restore(elsewhere, place)
    assert "kept/cleaned.jsonl" in keep(elsewhere, place).files


def test_the_place_of_the_settings_is_taken(settings, elsewhere, place):
    keep(settings.but(keep_in=place))
    assert restore(elsewhere.but(keep_in=str(place))).files
    with pytest.raises(SettingsError, match="keep_in=None names no place"):
        keep(settings)
    with pytest.raises(SettingsError, match="keep_in='github:me/story' must be a folder"):
        restore(settings, "github:me/story")


def test_settings_that_differ_are_told(settings, elsewhere, place, capsys):
    keep(settings, place)
    restore(elsewhere.but(rank=None, time_budget="3h"), place)
    assert "restore: kept with other settings: rank=8 (now None)\n" in capsys.readouterr().out


def test_where_nothing_is_kept_yet_a_line_says_so(settings, place, capsys):
    assert restore(settings, place).files == {}
    assert capsys.readouterr().out == f"restore: nothing is kept in {place} yet\n"


# ---------------------------------------------------------------- only what changed


def test_only_what_changed_is_copied_again(settings, elsewhere, place):
    keep(settings, place)
    before = {name: (place / name).stat().st_mtime_ns for name in kept.tree(place)}
    assert keep(settings, place).copied == 0
    assert {name: (place / name).stat().st_mtime_ns for name in kept.tree(place)} == before

    changed = settings.folder / "scores" / "story.json"
    kept.write(changed, '{"a": 1}')
    assert keep(settings, place).copied == len('{"a": 1}')
    assert lists(place) == ["kept-0001.json", "kept-0002.json"]
    restore(elsewhere, place)
    assert (elsewhere.folder / "scores" / "story.json").read_bytes() == changed.read_bytes()


def test_two_copies_are_kept_and_no_files_of_others(settings, place):
    for number in range(1, 5):
        kept.make(settings, number)
        keep(settings, place)
    assert lists(place) == ["kept-0003.json", "kept-0004.json"]
    states = {path.name for path in place.rglob("state-*.safetensors")}
    assert states == {"state-0003.safetensors", "state-0004.safetensors"}
    assert (place / "lora" / "lora-0001.safetensors").is_file(), "it never changed"


def test_a_state_that_is_gone_is_not_brought_back(settings, elsewhere, place):
    keep(settings, place)
    shutil.rmtree(settings.folder / ".checkpoint")
    keep(settings, place)
    restore(elsewhere, place)
    assert not (elsewhere.folder / ".checkpoint").exists()


# ---------------------------------------------------------------- interrupted and damaged


@pytest.mark.parametrize("at", range(1, 11))
def test_a_copy_that_breaks_off_leaves_the_one_before(settings, elsewhere, place, monkeypatch, at):
    keep(settings, place)
    expected = kept.worth_keeping(settings.folder)
    kept.make(settings, 2)
    real, calls = keeping_folder._copy, []

    def broken_off(source, target):
        calls.append(target)
        if len(calls) == at:
            target.write_bytes(source.read_bytes()[:3])
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder, "_copy", broken_off)
        with pytest.raises(KeyboardInterrupt):
            keep(settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == expected

    keep(settings, place)
    again = elsewhere.but(output=elsewhere.folder.with_name("again"))
    restore(again, place)
    assert kept.worth_keeping(again.folder) == kept.worth_keeping(settings.folder)
    keep(settings, place)
    referenced = {
        file["at"]
        for name in lists(place)
        for file in json.loads((place / name).read_text(encoding="utf-8"))["files"].values()
    }
    assert set(kept.tree(place)) == {*referenced, *lists(place), "README.md"}


@pytest.mark.parametrize("at", [1, 2, 9])
def test_a_first_copy_that_breaks_off_can_be_made_again(
    settings, elsewhere, place, monkeypatch, at
):
    real, calls = keeping_folder._copy, []

    def broken_off(source, target):
        calls.append(target)
        if len(calls) > at:
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder, "_copy", broken_off)
        with pytest.raises(KeepingError, match=r"did not take the copy \(No space left on device"):
            keep(settings, place)
    assert restore(elsewhere, place).files == {}
    keep(settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(settings.folder)


@pytest.mark.parametrize(
    ("name", "how", "what"),
    [
        ("lora/lora-0001.safetensors", "gone", "lora-0001.safetensors is missing or cut off"),
        ("lora/lora-0001.safetensors", "cut", "lora-0001.safetensors is missing or cut off"),
        ("story/story-0001.png", "changed", "story-0001.png is cut off or changed"),
        ("kept-0001.json", "cut", "kept-0001.json is cut off or changed"),
        ("kept-0001.json", "changed", "kept-0001.json is cut off or changed"),
    ],
)
def test_a_damaged_copy_is_named_in_one_sentence(settings, elsewhere, place, name, how, what):
    keep(settings, place)
    damage(place / name, how)
    with pytest.raises(KeepingError, match=f"No copy in .* is whole .*{what}") as error:
        restore(elsewhere, place)
    assert "\n" not in str(error.value)
    assert not elsewhere.folder.exists() or not any(elsewhere.folder.iterdir())


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
@pytest.mark.parametrize("name", ["story/story-0002.png", "kept-0002.json"])
def test_of_two_copies_the_one_that_is_whole_is_taken(
    settings, elsewhere, place, name, how, capsys
):
    """As where a cloud drive had not sent all files when the host stopped."""
    keep(settings, place)
    expected = kept.worth_keeping(settings.folder)
    kept.make(settings, 2)
    keep(settings, place)
    damage(place / name, how)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == expected
    if (place / "kept-0002.json").exists():
        assert "restore: a newer copy is not whole" in capsys.readouterr().out


def test_a_file_that_is_gone_from_the_place_is_copied_again(settings, elsewhere, place):
    keep(settings, place)
    (place / "lora" / "lora-0001.safetensors").unlink()
    keep(settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(settings.folder)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "/etc/hosts",
        "story/../../x.png",
        "other/x.png",
        "story/a\\b.png",
        "x.json",
    ],
)
def test_a_list_that_names_files_elsewhere_is_no_copy(settings, elsewhere, place, name):
    from storyboard.seals import sealed

    keep(settings, place)
    path = place / "kept-0001.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["checksum"]
    file = content["files"].pop("story/story.png")
    stem, dot, suffix = name.rpartition(".")
    content["files"][name] = file | {"at": f"{stem}-0001{dot}{suffix}"}
    artifacts.write_json(path, sealed(content))
    with pytest.raises(KeepingError, match="kept-0001.json is cut off or changed"):
        restore(elsewhere, place)


# ---------------------------------------------------------------- what would be lost


def test_nothing_here_is_overwritten(settings, elsewhere, place):
    keep(settings, place)
    kept.write(elsewhere.folder / "story" / "story.png", "drawn since")
    before = kept.tree(elsewhere.folder)
    with pytest.raises(KeepingError, match=r"story/story.png is not the file that was kept.*later"):
        restore(elsewhere, place)
    assert kept.tree(elsewhere.folder) == before


def test_what_is_here_as_it_was_kept_stays_and_the_rest_comes(settings, elsewhere, place):
    keep(settings, place)
    restore(elsewhere, place)
    kept.write(elsewhere.folder / "notes.txt", "mine")
    untouched = elsewhere.folder / "story" / "story.png"
    written = untouched.stat().st_mtime_ns
    (elsewhere.folder / "story" / "panel-1.png").unlink()
    back = restore(elsewhere, place)
    assert back.copied == len("panel-1.png 1")
    assert untouched.stat().st_mtime_ns == written
    assert (elsewhere.folder / "notes.txt").read_text() == "mine"


def test_a_run_that_forgot_to_restore_does_not_replace_the_copy(settings, elsewhere, place):
    keep(settings, place)
    before = kept.tree(place)
    kept.make(elsewhere, 2)
    with pytest.raises(KeepingError, match=r"was not made of .*: run restore\(settings\) first"):
        keep(elsewhere, place)
    assert kept.tree(place) == before


def test_a_restored_run_goes_on_in_the_same_place(settings, elsewhere, place):
    keep(settings, place)
    restore(elsewhere, place)
    kept.make(elsewhere, 2)
    assert keep(elsewhere, place).copied > 0
    assert lists(place) == ["kept-0001.json", "kept-0002.json"]


def test_a_folder_with_other_files_is_refused(settings, tmp_path):
    kept.write(tmp_path / "drive" / "lora" / "mine-0001.safetensors", "mine")
    with pytest.raises(KeepingError, match="drive holds other files, such as lora: name a new"):
        keep(settings, tmp_path / "drive")
    assert kept.tree(tmp_path / "drive") == {"lora/mine-0001.safetensors": b"mine"}


def test_files_that_a_user_put_there_stay(settings, place):
    keep(settings, place)
    kept.write(place / "notes.txt", "mine")
    for number in (2, 3, 4):
        kept.make(settings, number)
        keep(settings, place)
    assert (place / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------- places that refuse


def test_a_drive_that_is_not_mounted_is_named(settings, tmp_path):
    with pytest.raises(KeepingError, match="There is no folder .*MyDrive: mount the drive"):
        keep(settings, tmp_path / "MyDrive" / "story")
    with pytest.raises(KeepingError, match="There is no folder .*MyDrive: mount the drive"):
        restore(settings, tmp_path / "MyDrive" / "story")
    assert not (tmp_path / "MyDrive").exists()


def test_places_in_and_around_the_output_folder_are_refused(settings, tmp_path):
    for place in (settings.folder / "story", settings.folder, tmp_path):
        with pytest.raises(KeepingError, match="lie in each other"):
            keep(settings, place)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KeepingError, match="file is a file: name a folder"):
        keep(settings, tmp_path / "file")


def test_a_place_without_room_is_told_before(settings, elsewhere, place, monkeypatch):
    keep(settings, place)
    kept.make(settings, 2)
    before = kept.tree(place)
    usage = type("Usage", (), {"total": 10**9, "free": 3})
    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(KeepingError, match="story lacks 1 MB for the copy: free some space"):
            keep(settings, place)
        with pytest.raises(ResourceError, match="lacks 1 MB for what was kept"):
            restore(elsewhere, place)
    assert kept.tree(place) == before
