"""Keeping in a folder, and bringing back."""

import json
import os
import shutil

import pytest

from storyboard import artifacts, keep, locks, restore
from storyboard.errors import KeepingError, ResourceError, SettingsError
from storyboard.keeping import folder as keeping_folder
from tests import kept


def lists(place):
    """Numbers of the copies that have one."""
    return sorted(int(path.name.split("-")[1]) for path in place.glob("kept-*.json"))


# ---------------------------------------------------------------- there and back


def test_what_is_worth_keeping_comes_back_byte_for_byte(kept_settings, elsewhere, place, capsys):
    done = keep(kept_settings, place)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith(f"keep: {len(done.files)} files, 0.0 MB, are kept in {place}; ")
    assert "the same disk as" in line, "as a folder of the test is"

    back = restore(elsewhere, place)
    size = f"{len(done.files)} files, 0.0 MB"
    assert capsys.readouterr().out == f"restore: copying {size} from {place}\n{back}\n"
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(kept_settings.folder)
    assert artifacts.finished(elsewhere.folder / "lora", "abc")
    assert not (elsewhere.folder / "collected").exists()
    assert not (elsewhere.folder / locks.STATE).exists()


def test_settings_recipe_and_captions_are_kept(kept_settings, elsewhere, place, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("process: []", encoding="utf-8")
    keep(kept_settings.but(recipe=recipe, dataset=os.fsdecode(b"\xc4\xe3")), place)
    restore(elsewhere, place)
    notes = kept.tree(elsewhere.folder / "kept")
    assert json.loads(notes["settings.json"])["rank"] == 8
    assert notes["recipe.yaml"] == b"process: []"
    assert notes["collected.jsonl"] == b"captions of collected"
    assert notes["cleaned.jsonl"] == b"captions of cleaned"


def test_the_recipe_that_came_with_a_copy_can_be_the_one_in_use(kept_settings, place, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("process: []", encoding="utf-8")
    keep(kept_settings.but(recipe=recipe), place)
    back = kept_settings.folder / "kept" / "recipe.yaml"
    assert keep(kept_settings.but(recipe=back), place).files["kept/recipe.yaml"]
    assert back.read_bytes() == b"process: []"


def test_a_restored_folder_keeps_the_captions_that_came_with_it(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    restore(elsewhere, place)
    assert "kept/cleaned.jsonl" in keep(elsewhere, place).files


def test_the_place_of_the_settings_is_taken(kept_settings, elsewhere, place):
    keep(kept_settings.but(keep_in=place))
    assert restore(elsewhere.but(keep_in=str(place))).files
    with pytest.raises(SettingsError, match="keep_in=None names no place"):
        keep(kept_settings)
    with pytest.raises(SettingsError, match="keep_in='github:me/story' must be a folder"):
        restore(kept_settings, "github:me/story")


def test_settings_that_differ_are_told(kept_settings, elsewhere, place, capsys):
    keep(kept_settings, place)
    restore(elsewhere.but(rank=None, time_budget="3h"), place)
    assert "restore: kept with other settings: rank=8 (now None)\n" in capsys.readouterr().out


def test_where_nothing_is_kept_yet_a_line_says_so(kept_settings, place, capsys):
    assert restore(kept_settings, place).files == {}
    assert capsys.readouterr().out == f"restore: nothing is kept in {place} yet\n"


# ---------------------------------------------------------------- only what changed


def test_only_what_changed_is_copied_again(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    before = {name: (place / name).stat().st_mtime_ns for name in kept.tree(place)}
    assert keep(kept_settings, place).copied == 0
    assert {name: (place / name).stat().st_mtime_ns for name in kept.tree(place)} == before

    changed = kept_settings.folder / "scores" / "story.json"
    kept.write(changed, '{"a": 1}')
    assert keep(kept_settings, place).copied == len('{"a": 1}')
    assert lists(place) == [1, 2]
    restore(elsewhere, place)
    assert (elsewhere.folder / "scores" / "story.json").read_bytes() == changed.read_bytes()


def test_two_copies_are_kept_and_no_files_of_others(kept_settings, place):
    for number in range(1, 5):
        kept.make(kept_settings, number)
        keep(kept_settings, place)
    assert lists(place) == [3, 4]
    states = sorted(path.name[:10] for path in place.rglob("state-*.safetensors"))
    assert states == ["state-0003", "state-0004"]
    assert kept.stored(place, "lora/lora.safetensors").is_file(), "it never changed"


def test_a_state_that_is_gone_is_not_brought_back(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    shutil.rmtree(kept_settings.folder / ".checkpoint")
    keep(kept_settings, place)
    restore(elsewhere, place)
    assert not (elsewhere.folder / ".checkpoint").exists()


# ---------------------------------------------------------------- what would be lost


def test_nothing_here_is_overwritten(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    kept.write(elsewhere.folder / "story" / "story.png", "drawn since")
    before = kept.tree(elsewhere.folder)
    with pytest.raises(KeepingError, match=r"story/story.png is not the file that was kept"):
        restore(elsewhere, place)
    assert kept.tree(elsewhere.folder) == before


def test_what_is_here_as_it_was_kept_stays_and_the_rest_comes(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    restore(elsewhere, place)
    kept.write(elsewhere.folder / "notes.txt", "mine")
    untouched = elsewhere.folder / "story" / "story.png"
    written = untouched.stat().st_mtime_ns
    (elsewhere.folder / "story" / "panel-1.png").unlink()
    back = restore(elsewhere, place)
    assert back.copied == len("panel-1.png 1")
    assert untouched.stat().st_mtime_ns == written
    assert (elsewhere.folder / "notes.txt").read_text() == "mine"


def test_a_restored_run_goes_on_in_the_same_place(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    restore(elsewhere, place)
    kept.make(elsewhere, 2)
    assert keep(elsewhere, place).copied > 0
    assert lists(place) == [1, 2]


def test_what_was_made_since_it_was_kept_stays(kept_settings, place, capsys):
    """A notebook that begins with restore() and is run again on a machine that lost nothing."""
    keep(kept_settings, place)
    kept.make(kept_settings, 2)
    (kept_settings.folder / "scores" / "story.json").unlink()
    before = kept.tree(kept_settings.folder)
    restore(kept_settings, place)
    assert "files here are later and stay, such as .checkpoint/" in capsys.readouterr().out
    assert kept.tree(kept_settings.folder) == before | {"scores/story.json": b"{}"}


def test_what_was_made_since_is_not_mixed_with_what_is_older(kept_settings, place, capsys):
    """Trained again for other checkpoints, drawn again with fewer panels, decisions undone."""
    keep(kept_settings, place)
    with artifacts.building(kept_settings.folder / "lora") as lora:
        kept.write(lora / "lora.safetensors", "another")
        artifacts.write_manifest(lora, "train", "def")
    story = kept_settings.folder / "story"
    (story / "panel-1.png").unlink()
    artifacts.write_manifest(story, "render", "def", names=["story.png", "story.json"])
    (kept_settings.folder / "edits.csv").unlink()
    before = kept.tree(kept_settings.folder)
    done = restore(kept_settings, place)
    assert kept.tree(kept_settings.folder) == before
    gone = {"lora/checkpoints/step-000004.safetensors", "story/panel-1.png", "edits.csv"}
    assert not gone & done.files.keys()
    assert "; older than that, or deleted here: 3, such as edits.csv)" in capsys.readouterr().out


def test_a_whole_folder_that_is_gone_comes_back_beside_later_ones(kept_settings, place):
    keep(kept_settings, place)
    lora = kept.tree(kept_settings.folder / "lora")
    shutil.rmtree(kept_settings.folder / "lora")
    kept.write(kept_settings.folder / "story" / "story.png", "drawn since")
    restore(kept_settings, place)
    assert kept.tree(kept_settings.folder / "lora") == lora


def test_a_copy_whose_end_was_not_seen_is_ours(kept_settings, place, monkeypatch):
    """Killed after the list was written."""

    def killed(folder, names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder.Folder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(kept_settings, place)
    assert keep(kept_settings, place).copied == 0


def test_one_folder_can_be_kept_in_two_places(kept_settings, elsewhere, place, tmp_path):
    second = tmp_path / "drive" / "second"
    for number, where in enumerate((place, second, place, place, second), 1):
        kept.make(kept_settings, number)
        keep(kept_settings, where)
    for where in (place, second):
        restore(elsewhere.but(output=tmp_path / f"from-{where.name}"), where)
    assert (tmp_path / "from-story" / "story" / "story.png").read_bytes() == b"story.png 4"
    assert (tmp_path / "from-second" / "story" / "story.png").read_bytes() == b"story.png 5"


@pytest.mark.parametrize("whose", ["ours", "another's"])
def test_a_copy_whose_list_is_damaged_is_replaced_by_its_own_run_alone(
    kept_settings, elsewhere, place, whose
):
    keep(kept_settings, place)
    kept.stored(place, "kept.json").write_text("{cut", encoding="utf-8")
    kept.make(elsewhere)
    if whose == "ours":
        assert keep(kept_settings, place).copied > 0
        restore(elsewhere.but(output=elsewhere.folder.with_name("fresh")), place)
        return
    with pytest.raises(KeepingError, match="list kept-0001-.*.json is cut off or changed: wait"):
        keep(elsewhere, place)
    assert kept.stored(place, "lora/lora.safetensors").is_file()


@pytest.mark.parametrize("name", ["lora/mine-0001.safetensors", "photos/2026/mine.jpg"])
def test_a_folder_with_other_files_is_refused(kept_settings, tmp_path, name):
    """As the whole of a drive, which often holds folders alone."""
    kept.write(tmp_path / "drive" / name, "mine")
    holds = f"drive holds other files, such as {name.split('/')[0]}: name a new"
    with pytest.raises(KeepingError, match=holds):
        keep(kept_settings, tmp_path / "drive")
    assert kept.tree(tmp_path / "drive") == {name: b"mine"}


def test_files_that_a_user_put_there_stay(kept_settings, place):
    keep(kept_settings, place)
    kept.write(place / "notes.txt", "mine")
    for number in (2, 3, 4):
        kept.make(kept_settings, number)
        keep(kept_settings, place)
    assert (place / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------- places that refuse


def test_a_drive_that_is_not_mounted_is_named(kept_settings, tmp_path):
    with pytest.raises(KeepingError, match="There is no folder .*MyDrive: mount the drive"):
        keep(kept_settings, tmp_path / "MyDrive" / "story")
    with pytest.raises(KeepingError, match="There is no folder .*MyDrive: mount the drive"):
        restore(kept_settings, tmp_path / "MyDrive" / "story")
    assert not (tmp_path / "MyDrive").exists()


def test_places_in_and_around_the_output_folder_are_refused(kept_settings, tmp_path):
    for place in (kept_settings.folder / "story", kept_settings.folder, tmp_path):
        with pytest.raises(KeepingError, match="lie in each other"):
            keep(kept_settings, place)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KeepingError, match="file is a file: name a folder"):
        keep(kept_settings, tmp_path / "file")


def test_a_place_without_room_is_told_before(kept_settings, elsewhere, place, monkeypatch):
    keep(kept_settings, place)
    kept.make(kept_settings, 2)
    before = kept.tree(place)
    usage = type("Usage", (), {"total": 10**9, "free": 3})
    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(KeepingError, match="story lacks 1 MB for the copy: free some space"):
            keep(kept_settings, place)
        with pytest.raises(ResourceError, match="lacks 1 MB for what was kept"):
            restore(elsewhere, place)
    assert kept.tree(place) == before
