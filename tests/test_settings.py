import subprocess
import sys

import pytest

from storyboard import Settings, StoryboardError
from storyboard.errors import SettingsError


def test_defaults_come_from_the_base():
    settings = Settings()
    assert settings.base == "mini" and settings.alpha == settings.rank
    assert settings.resolution % 32 == 0 and settings.train_steps > 100


def test_unknown_base_is_named_with_those_there_are():
    with pytest.raises(SettingsError, match=r"'flux'.*'mini'"):
        Settings(base="flux")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 0}, "rank=0 must be a whole number from 1 to 256"),
        ({"resolution": 100}, "resolution=100 must be a multiple of 32"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 must be a number from 1"),
        ({"seed": -1}, "seed=-1"),
        ({"train_steps": 2.5}, "train_steps=2.5 must be a whole number"),
        ({"train_steps": True}, "train_steps=True"),
        ({"clip_skip": 2}, "clip_skip=2 belongs to CLIP, which the base 'mini' does not have"),
        ({"base": "kolors", "clip_skip": 1}, "clip_skip=1 belongs to CLIP"),
        ({"base": "sd15", "clip_skip": 0}, "clip_skip=0 must be a whole number from 1 to 12"),
        ({"base": "sdxl", "clip_skip": 1}, "clip_skip=1 must be a whole number from 2 to 12"),
        ({"base": "sd15", "clip_skip": True}, "clip_skip=True"),
        ({"output": " "}, "output=' '"),
        ({"seed": None}, "seed=None"),
        ({"dataset": None}, "dataset=None"),
        ({"rank": None}, "rank=None"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(changes, said):
    with pytest.raises(SettingsError) as error:
        Settings(**changes)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_errors_share_a_base_class():
    assert issubclass(SettingsError, StoryboardError)


def test_a_notebook_shows_the_sentence_alone():
    assert SettingsError("a: b")._render_traceback_() == ["SettingsError: a: b"]


def test_importing_the_package_is_quick():
    code = "import time; t = time.perf_counter(); import storyboard; from storyboard import Settings; Settings(); print(time.perf_counter() - t); import sys; assert 'torch' not in sys.modules"
    seconds = float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert seconds < 1
