"""Runs: settings that fit a base, every value filled in."""

import dataclasses

import pytest

from storyboard import Settings, check
from storyboard.errors import SettingsError
from storyboard.models import bases, run
from storyboard.models.run import CHARACTER_STRENGTH


def filled(**changes):
    """What a run of these settings would have, without fetching its base."""
    settings = Settings(**changes)
    return run.filled(settings, run.check(settings))


def test_defaults_come_from_the_base():
    made = run.resolve(Settings(base="mini"))
    mini = bases.get("mini")
    assert made.base == mini and made.base_fingerprint == mini.fingerprint()
    assert (made.resolution, made.train_steps) == (mini.resolution, mini.train_steps)
    assert made.alpha == made.rank and made.character is made.character_strength is None
    assert made.plan.train_micro_batch_size == mini.train_batch_size


def test_what_the_user_wrote_is_taken():
    made = run.resolve(Settings(base="mini", resolution=64, guidance_scale=3.0, alpha=4))
    assert (made.resolution, made.guidance_scale, made.alpha) == (64, 3.0, 4)
    assert made.settings.learning_rate is None and made.learning_rate == made.base.learning_rate


def test_another_base_brings_its_own_defaults():
    settings = Settings(base="mini").but(base="sdxl")
    values, sdxl = run.filled(settings, run.check(settings)), bases.get("sdxl")
    for name in ("learning_rate", "resolution", "guidance_scale", "num_inference_steps"):
        assert values[name] == getattr(sdxl, name)


def test_alpha_follows_another_rank():
    settings = Settings(base="mini").but(rank=32)
    assert run.filled(settings, run.check(settings))["alpha"] == 32.0


def test_character_consistency_has_its_usual_strength():
    assert filled(base="mini", character="shared")["character_strength"] == 1.0
    kolors = filled(base="kolors", character="ip-adapter")
    assert kolors["character_strength"] == CHARACTER_STRENGTH["ip-adapter"]
    assert filled(base="mini", character="shared", character_strength=2)["character_strength"] == 2


def test_every_value_of_a_run_is_there():
    made = run.resolve(Settings(base="mini"))
    optional = {
        "character",
        "character_strength",
        "character_picture",
        "text_encoder_bits",
        "clip_skip",
    }
    for field in dataclasses.fields(made):
        assert field.name in optional or getattr(made, field.name) is not None


def test_unknown_base_is_named_with_those_there_are():
    with pytest.raises(SettingsError, match=r"'flux'.*'mini'"):
        run.check(Settings(base="flux"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "mini", "resolution": 100}, "resolution=100 must be a multiple of 32"),
        ({"base": "sd15", "resolution": 96}, "resolution=96 must be a multiple of 64"),
        (
            {"base": "mini", "clip_skip": 2},
            "clip_skip=2 belongs to CLIP, which the base 'mini' does not have",
        ),
        ({"base": "kolors", "clip_skip": 1}, "clip_skip=1 belongs to CLIP"),
        ({"base": "sdxl", "clip_skip": 1}, "clip_skip=1 must be a whole number from 2 to 12"),
        ({"base": "mini", "character": "ip-adapter"}, "The base 'mini' has no IP-Adapter"),
    ],
)
@pytest.mark.parametrize("refuse", [run.check, run.resolve, check])
def test_what_does_not_go_with_the_base_is_one_sentence(changes, message, refuse):
    """Before anything is fetched, and in the notebook's check cell."""
    with pytest.raises(SettingsError) as error:
        refuse(Settings(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_on_a_base_at_hand_is_checked_too():
    with pytest.raises(SettingsError, match="multiple of 32 for the base 'mini'"):
        run.run_on(bases.get("mini"), Settings(base="sdxl", resolution=100))
