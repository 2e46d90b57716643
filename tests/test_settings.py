"""Settings as the user writes them: types, ranges, and changes of some of them."""

import subprocess
import sys

import pytest

from storyboard import Settings, StoryboardError
from storyboard.errors import SettingsError


def test_nothing_is_filled_in():
    settings = Settings()
    for name in ("base", "alpha", "resolution", "learning_rate", "train_steps", "character"):
        assert getattr(settings, name) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number from 1 to 256"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 must be a number from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"train_steps": 2.5}, "train_steps=2.5 must be a whole number"),
        ({"train_steps": True}, "train_steps=True"),
        ({"clip_skip": 0}, "clip_skip=0 must be a whole number from 1 to 12"),
        ({"clip_skip": True}, "clip_skip=True"),
        ({"output": " "}, "output=' '"),
        ({"seed": None}, "seed=None"),
        ({"dataset": None}, "dataset=None"),
        ({"rank": None}, "rank=None"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"base": 3}, "base=3 must be a name or a path"),
        ({"precision": "int8"}, 'precision=\'int8\' must be "fp32", "bf16", "fp16" or None'),
        ({"character": "both"}, 'must be "shared", "ip-adapter" or None'),
        ({"character_strength": 1.0}, "character_strength belongs to character="),
        (
            {"character": "shared", "character_picture": "a.png"},
            'character_picture belongs to character="ip-adapter"',
        ),
        (
            {"character": "shared", "character_strength": 0},
            "character_strength=0 must be a number from 0.01 to 10",
        ),
        (
            {"character": "ip-adapter", "character_strength": 3},
            "character_strength=3 must be a number from 0 to 2",
        ),
        ({"caption_template": "{style}"}, "caption_template='{style}' must be text"),
        ({"caption_template": 3}, "caption_template=3 must be text"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(changes, message):
    with pytest.raises(SettingsError) as error:
        Settings(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_some_changed_is_as_if_all_had_been_written_at_once():
    settings = Settings(base="mini", rank=8, output="here")
    assert settings.but(base="sdxl") == Settings(base="sdxl", rank=8, output="here")
    assert settings.but(rank=32) == Settings(base="mini", rank=32, output="here")
    assert settings.but(rank=32, alpha=1.0) == Settings("mini", rank=32, alpha=1.0, output="here")


def test_strength_and_picture_go_with_the_kind_of_consistency_they_were_written_for():
    shared = Settings(character="shared", character_strength=5.0)
    adapter = Settings(character="ip-adapter", character_strength=1, character_picture="a.png")
    assert shared.but(character=None) == adapter.but(character=None) == Settings()
    assert shared.but(character="ip-adapter") == Settings(character="ip-adapter")
    assert shared.but(character="ip-adapter", character_strength=1).character_strength == 1
    assert shared.but(seed=1).character_strength == 5.0
    assert shared.but(character="shared").character_strength == 5.0
    assert shared.but(character_strength=None) == Settings(character="shared")
    with pytest.raises(SettingsError, match="character_strength belongs to"):
        shared.but(character=None, character_strength=5.0)


def test_errors_share_a_base_class():
    assert issubclass(SettingsError, StoryboardError)


def test_a_notebook_shows_the_sentence_alone():
    assert SettingsError("a: b")._render_traceback_() == ["SettingsError: a: b"]


def test_importing_the_package_is_quick():
    code = (
        "import sys, time; begun = time.perf_counter(); import storyboard; "
        "from storyboard import Settings; Settings(); print(time.perf_counter() - begun); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(child.stdout) < 1
