"""Settings as the user writes them: types, ranges, and changes of some of them."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from storyboard import Settings, StoryboardError
from storyboard.errors import SettingsError


def test_nothing_is_filled_in():
    settings = Settings()
    for name in ("base", "alpha", "resolution", "rank", "learning_rate", "train_steps"):
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
        ({"prior_loss_weight": -1}, "prior_loss_weight=-1 must be a number from 0 to 10"),
        ({"prior_loss_weight": True}, "prior_loss_weight=True must be a number"),
        ({"caption_dropout": 1.5}, "caption_dropout=1.5 must be a number from 0 to 1"),
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
        ({"caption_template": "a\ud83d"}, "holds '\\ud83d' at character 2, which is no character"),
        ({"dataset": "a\0b"}, "dataset='a\\x00b' holds a character that no path can have"),
        ({"recipe": "\ud83d"}, "recipe='\\ud83d' holds a character that no path can have"),
        ({"dataset": "画" * 86}, "is too long for a path: a name in it can have 255 bytes"),
        ({"output": "ab/" * 1400}, "is too long for a path"),
        ({"character": [1]}, "character=[1] must be"),
        ({"precision": np.zeros(3)}, "precision=array([0., 0., 0.]) must be"),
        ({"text_encoder_bits": "8"}, "text_encoder_bits='8' must be 8, 4 or None"),
        ({"text_encoder_bits": True}, "text_encoder_bits=True must be"),
        ({"seed": 10**5000}, "seed=<a whole number of 16610 bits> must be"),
        ({"allow_operators": 10**5000}, "allow_operators=<a whole number of 16610 bits> must be"),
        ({"allow_operators": [3]}, "allow_operators=[3] must be names of operators"),
        ({"rank": float("nan")}, "rank=nan must be a whole number"),
        ({"alpha": float("nan")}, "alpha=nan must be a number"),
        ({"learning_rate": 1j}, "learning_rate=1j must be"),
        ({"dataset": ["a"] * 1000}, "dataset=['a', 'a', 'a', 'a', 'a', 'a', ...] must be"),
        ({"offload": 1}, "offload=1 must be True, False or None"),
        ({"character": "ip-adapter", "character_picture": 3}, "character_picture=3 must be"),
        ({"keep_in": "github:me/story"}, "keep_in='github:me/story' must be a folder, \"models"),
        ({"keep_in": " "}, "keep_in=' ' must be a name or a path"),
        ({"time_budget": "soon"}, "time_budget='soon' must be a time such as \"3h\""),
        ({"time_budget": 0}, "time_budget=0 must be a time"),
        ({"time_budget": True}, "time_budget=True must be a time"),
        ({"time_budget": [3]}, "time_budget=[3] must be a time"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(changes, message):
    with pytest.raises(SettingsError) as error:
        Settings(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_paths_are_taken_and_home_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings(base=Path("b"), dataset=Path("~/pictures"), output="~/出 图")
    assert settings.base == "b" and settings.dataset == f"{tmp_path}/pictures"
    assert settings.folder == tmp_path / "出 图"
    assert Settings(dataset="a~b/~").dataset == "a~b/~", "the sign alone means nothing"
    assert Settings(dataset=os.fsdecode(b"\xc4\xe3")).dataset == "\udcc4\udce3", "a GBK name"


def test_where_results_are_kept_and_how_long_training_may_take(tmp_path):
    settings = Settings(keep_in=tmp_path, time_budget=np.int64(90))
    assert (settings.keep_in, settings.time_budget) == (str(tmp_path), 90)
    settings = Settings(keep_in="huggingface:me/my-story", time_budget="2h30m")
    assert (settings.keep_in, settings.time_budget) == ("huggingface:me/my-story", "2h30m")


def test_an_output_that_is_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(SettingsError, match="file is a file: name another"):
            Settings(output=output)
    assert (tmp_path / "file").read_text() == "mine"


def test_numbers_of_numpy_are_pythons_own():
    settings = Settings(seed=np.int64(3), rank=np.uint8(8), alpha=np.float32(4))
    assert json.loads(json.dumps(asdict(settings)))["alpha"] == 4.0
    assert (type(settings.seed), type(settings.rank)) == (int, int)


def test_a_setting_that_is_none_is_named_with_what_was_meant():
    with pytest.raises(SettingsError, match="no setting 'train_step': did you mean train_steps"):
        Settings().but(train_step=3)
    with pytest.raises(SettingsError, match="no setting 'zzz': choose from base, dataset"):
        Settings().but(zzz=3)


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
    """It imports none of the libraries that take a second and more."""
    code = (
        "import sys, storyboard; from storyboard import Settings; Settings(); "
        "print({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name for name in ast.literal_eval(child.stdout) if not name.startswith("_")}
    assert loaded <= {
        "PIL", "annotated_types", "filelock", "pydantic", "pydantic_core", "storyboard",
        "typing_extensions", "typing_inspection",
    }  # fmt: skip
