"""Two runs at one place, and copies of an earlier release: none replaces or deletes the other's."""

import json

import pytest

from storyboard import artifacts, keep, restore
from storyboard.errors import KeepingError
from storyboard.keeping import folder as keeping_folder
from storyboard.seals import sealed
from tests import kept


@pytest.fixture
def amid(monkeypatch):
    """Calls something once, after so many files of the next copy were written."""
    real = keeping_folder._copy

    def arrange(count, call):
        written = []

        def copy(source, target):
            real(source, target)
            written.append(target)
            if len(written) == count:
                call()

        monkeypatch.setattr(keeping_folder, "_copy", copy)

    return arrange


def test_a_run_that_forgot_to_restore_does_not_replace_the_copy(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    before = kept.tree(place)
    kept.make(elsewhere, 2)
    with pytest.raises(KeepingError, match=r"was not made of .*: run restore\(settings\) first"):
        keep(elsewhere, place)
    assert kept.tree(place) == before


def test_of_two_machines_the_one_that_fell_behind_is_told(kept_settings, elsewhere, place):
    keep(kept_settings, place)
    restore(elsewhere, place)
    kept.make(elsewhere, 2)
    keep(elsewhere, place)
    kept.make(kept_settings, 3)
    with pytest.raises(KeepingError, match="was not made of"):
        keep(kept_settings, place)
    with pytest.raises(KeepingError, match="is not the file that was kept"):
        restore(kept_settings, place)


def test_of_two_first_copies_one_is_whole_and_the_other_run_is_told(
    kept_settings, elsewhere, place, amid, tmp_path
):
    kept.make(elsewhere, 2)
    amid(9, lambda: keep(elsewhere, place))
    with pytest.raises(
        KeepingError, match="holds a copy of .* that was not made of .*outputs: run"
    ):
        keep(kept_settings, place)
    back = elsewhere.but(output=tmp_path / "back")
    done = restore(back, place)
    assert kept.worth_keeping(back.folder) == kept.worth_keeping(elsewhere.folder)
    assert len(kept.tree(place)) == len(done.files) + len(["README.md", "the list"])


def test_what_another_run_has_not_finished_is_not_deleted(
    kept_settings, elsewhere, place, monkeypatch
):
    real = keeping_folder._copy

    def broken_off(source, target):
        real(source, target)
        if target.name.startswith("story-"):
            raise KeyboardInterrupt

    kept.make(elsewhere, 2)
    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder, "_copy", broken_off)
        with pytest.raises(KeyboardInterrupt):
            keep(elsewhere, place)
    unfinished = kept.tree(place).keys()
    keep(kept_settings, place)
    assert unfinished <= kept.tree(place).keys()


def test_two_machines_that_go_on_from_one_copy_do_not_damage_each_others(
    kept_settings, elsewhere, place, amid, tmp_path
):
    keep(kept_settings, place)
    restore(elsewhere, place)
    kept.make(kept_settings, 2)
    kept.make(elsewhere, 3)
    amid(3, lambda: keep(elsewhere, place))
    with pytest.raises(KeepingError, match="was not made of"):
        keep(kept_settings, place)
    back = elsewhere.but(output=tmp_path / "back")
    restore(back, place)
    assert kept.worth_keeping(back.folder) == kept.worth_keeping(elsewhere.folder)


def test_names_of_a_copy_that_broke_off_are_not_used_again(kept_settings, place, monkeypatch):
    keep(kept_settings, place)
    kept.make(kept_settings, 2)
    real, before, written = keeping_folder._copy, [], []

    def broken_off(source, target):
        real(source, target)
        before.append(target)
        if len(before) == 4:
            raise KeyboardInterrupt

    def noted(source, target):
        written.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(keeping_folder, "_copy", broken_off)
        with pytest.raises(KeyboardInterrupt):
            keep(kept_settings, place)
        patch.setattr(keeping_folder, "_copy", noted)
        keep(kept_settings, place)
    assert written and not set(before) & set(written)
    assert not any(path.exists() for path in before), "they are cleared away"


def without_tag(place):
    """Make the first copy there one of an earlier release."""
    path = kept.stored(place, "kept.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    tag = content.pop("tag")
    del content["checksum"]
    for file in content["files"].values():
        stored = place / file["at"]
        file["at"] = file["at"].replace(f"-{tag}", "")
        stored.rename(place / file["at"])
    artifacts.write_json(place / "kept-0001.json", sealed(content))
    path.unlink()


def test_a_copy_of_an_earlier_release_comes_back_and_is_gone_on_from(
    kept_settings, elsewhere, place, tmp_path
):
    keep(kept_settings, place)
    without_tag(place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(kept_settings.folder)
    for number in (2, 3):
        kept.make(elsewhere, number)
        keep(elsewhere, place)
    assert not (place / "kept-0001.json").exists()
    assert (place / "lora" / "lora-0001.safetensors").is_file(), "it never changed"
    back = elsewhere.but(output=tmp_path / "back")
    restore(back, place)
    assert kept.worth_keeping(back.folder) == kept.worth_keeping(elsewhere.folder)
