"""Kept copies that break off, or are damaged: the one before stays, and damage is named."""

import errno
import json
from pathlib import Path

import pytest

from storyboard import artifacts, keep, restore
from storyboard.errors import KeepingError
from storyboard.keeping import folder as keeping_folder
from tests import kept


def lists(place):
    return sorted(path.name for path in place.glob("kept-*.json"))


@pytest.mark.parametrize("at", range(1, 12))
def test_a_copy_that_breaks_off_leaves_the_one_before(
    kept_settings, elsewhere, place, monkeypatch, at
):
    keep(kept_settings, place)
    expected = kept.worth_keeping(kept_settings.folder)
    kept.make(kept_settings, 2)
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
            keep(kept_settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == expected

    keep(kept_settings, place)
    again = elsewhere.but(output=elsewhere.folder.with_name("again"))
    restore(again, place)
    assert kept.worth_keeping(again.folder) == kept.worth_keeping(kept_settings.folder)
    keep(kept_settings, place)
    referenced = {
        file["at"]
        for name in lists(place)
        for file in json.loads((place / name).read_text(encoding="utf-8"))["files"].values()
    }
    assert set(kept.tree(place)) == {*referenced, *lists(place), "README.md"}


@pytest.mark.parametrize("at", [1, 2, 9])
def test_a_first_copy_that_breaks_off_can_be_made_again(
    kept_settings, elsewhere, place, monkeypatch, at
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
            keep(kept_settings, place)
    assert restore(elsewhere, place).files == {}
    keep(kept_settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(kept_settings.folder)


@pytest.mark.parametrize(
    ("name", "how", "what"),
    [
        ("lora/lora.safetensors", "gone", "is missing or cut off"),
        ("lora/lora.safetensors", "cut", "is missing or cut off"),
        ("story/story.png", "changed", "is cut off or changed"),
        ("kept.json", "cut", "is cut off or changed"),
        ("kept.json", "changed", "is cut off or changed"),
    ],
)
def test_a_damaged_copy_is_named_in_one_sentence(kept_settings, elsewhere, place, name, how, what):
    keep(kept_settings, place)
    stored = kept.stored(place, name)
    damage(stored, how)
    with pytest.raises(KeepingError, match=f"No copy .* is whole .*{stored.name} {what}") as error:
        restore(elsewhere, place)
    assert "\n" not in str(error.value)
    assert not elsewhere.folder.exists() or not any(elsewhere.folder.iterdir())


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
@pytest.mark.parametrize("name", ["story/story.png", "kept.json"])
def test_of_two_copies_the_one_that_is_whole_is_taken(
    kept_settings, elsewhere, place, name, how, capsys
):
    """As where a cloud drive had not sent all files when the host stopped."""
    keep(kept_settings, place)
    expected = kept.worth_keeping(kept_settings.folder)
    kept.make(kept_settings, 2)
    keep(kept_settings, place)
    damage(kept.stored(place, name, 2), how)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == expected
    if (name, how) != ("kept.json", "gone"):
        assert "restore: a newer copy is not whole" in capsys.readouterr().out

    kept.make(elsewhere, 3)
    keep(elsewhere, place)
    back = elsewhere.but(output=elsewhere.folder.with_name("back"))
    restore(back, place)
    assert kept.worth_keeping(back.folder) == kept.worth_keeping(elsewhere.folder)


@pytest.mark.parametrize("how", ["gone", "cut", "emptied"])
def test_a_file_that_is_not_whole_at_the_place_is_copied_again(
    kept_settings, elsewhere, place, how
):
    keep(kept_settings, place)
    damage(kept.stored(place, "lora/lora.safetensors"), how)
    keep(kept_settings, place)
    restore(elsewhere, place)
    assert kept.worth_keeping(elsewhere.folder) == kept.worth_keeping(kept_settings.folder)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
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
def test_a_list_that_names_files_elsewhere_is_no_copy(kept_settings, elsewhere, place, name):
    from storyboard.seals import sealed

    keep(kept_settings, place)
    path = kept.stored(place, "kept.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["checksum"]
    file = content["files"].pop("story/story.png")
    stem, dot, suffix = name.rpartition(".")
    content["files"][name] = file | {"at": f"{stem}-0001{dot}{suffix}"}
    artifacts.write_json(path, sealed(content))
    with pytest.raises(KeepingError, match="kept-0001-.*.json is cut off or changed"):
        restore(elsewhere, place)
