"""Paths that a user writes, on systems that this one is not: Windows, and disks blind to case."""

from pathlib import Path

import pytest

from storyboard import Settings, keep, paths
from storyboard.errors import KeepingError, SettingsError


@pytest.fixture
def windows(monkeypatch):
    """The rules of Windows for names; the paths themselves are of this system."""
    monkeypatch.setattr(paths, "WINDOWS", True)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"output": "outputs/con"}, "con"),
        ({"output": "D:\\story\\NUL"}, "NUL"),
        ({"dataset": "pictures/aux.png"}, "aux.png"),
        ({"recipe": "COM1.yaml"}, "COM1.yaml"),
        ({"output": "what?"}, "what?"),
        ({"output": "out:puts"}, "out:puts"),
        ({"keep_in": "drive/story."}, "story."),
        ({"base": "models/mine /unet"}, "mine "),
    ],
)
def test_what_is_no_name_on_windows_is_refused_there(windows, monkeypatch, changes, part):
    message = rf"holds {part!r}, which cannot be a name on Windows: name another"
    with pytest.raises(SettingsError, match="which cannot be a name on Windows") as error:
        Settings(**changes)
    assert message in str(error.value)
    monkeypatch.setattr(paths, "WINDOWS", False)
    Settings(**changes)


def test_usual_paths_are_taken_on_windows(windows):
    for path in ("outputs", "D:\\story\\出图", "D:/story", "..\\console", "con-air", "a.b c/lpt"):
        assert Settings(output=path).output == path
    assert Settings(keep_in="huggingface:me/story", dataset="AI-ModelScope/lowres_anime")


def test_an_output_folder_too_deep_for_windows_is_refused(windows, tmp_path):
    deep = tmp_path.joinpath(*["deep"] * 30)
    with pytest.raises(SettingsError, match="over 120 characters, and Windows opens files up to"):
        Settings(output=deep)


def test_the_longest_names_that_are_made_fit_below_it():
    names = (
        ".storyboard/unfinished/0123456789abcdef.01234567/previews/step-100000-panel-64.png",
        ".storyboard/unfinished/tmp01234567/.checkpoint/0123456789abcdef/previews/"
        "step-100000-panel-64.png",
        "cache/text/0123456789abcdef/0123456789abcdef0123456789abcdef.safetensors",
    )
    assert max(map(len, names)) < paths.LONGEST_BELOW


def test_a_place_in_the_output_folder_by_a_name_in_another_case(kept_settings, monkeypatch):
    """As on a Mac, where both names open one folder."""
    other_case = kept_settings.folder.with_name("OUTPUTS") / "place"
    real = Path.exists

    def exists(path, **named):
        return path.name == "OUTPUTS" or real(path, **named)

    def samefile(path, other):
        return str(path).lower() == str(other).lower()

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(Path, "samefile", samefile)
    with pytest.raises(KeepingError, match="lie in each other"):
        keep(kept_settings, other_case)
