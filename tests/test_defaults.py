"""Hyperparameters that follow the training set."""

from dataclasses import replace

import pytest

from storyboard import Settings
from storyboard.data.captions import CaptionRow, Captions
from storyboard.models import bases
from storyboard.models.run import run_on
from storyboard.training import defaults
from storyboard.training.defaults import NAMES
from storyboard.training.hyperparameters import Hyperparameters

MINI = bases.get("mini")


def of(count, tmp_path) -> Captions:
    """A set of so many pictures that nobody opens."""
    return Captions(tmp_path, [CaptionRow(str(i), "动漫", f"{i}.png") for i in range(count)])


def chosen(count, tmp_path, distance=30.0, base=MINI, **changes):
    run = run_on(base, Settings(base="mini", **changes))
    return defaults.choose(run, of(count, tmp_path), lambda _: distance)


def never(_):
    pytest.fail("the distance is not needed")


@pytest.mark.parametrize("count", [defaults.SMALL_SET, 313])
def test_a_large_set_has_the_bases_own_defaults(count, tmp_path):
    run = run_on(MINI, Settings(base="mini"))
    choice = defaults.choose(run, of(count, tmp_path), never)
    assert Hyperparameters.of(choice.run) == Hyperparameters.of(run)
    values = [getattr(choice.run, name) for name in NAMES]
    assert values == [4.5e-3, 600, 6, 16, 0.0]
    assert choice.reason == (
        f"learning rate 0.0045, 600 steps of 6, rank 16, as usual for mini with {count} pictures"
    )


def test_a_small_set_far_from_the_base_has_others(tmp_path):
    choice = chosen(16, tmp_path)
    for name, value in MINI.small_set.items():
        assert getattr(choice.run, name) == value
    assert choice.run.alpha == choice.run.rank
    assert "because 16 pictures are few and far from what mini draws (30.0 times" in choice.reason
    assert "\n" not in choice.reason


def test_a_small_set_near_the_base_has_fewer_steps(tmp_path):
    choice = chosen(16, tmp_path, distance=1.5)
    assert choice.run.train_steps == MINI.train_steps
    assert choice.run.learning_rate == MINI.small_set["learning_rate"]
    assert "near what mini draws" in choice.reason


def test_what_is_set_is_kept(tmp_path):
    changes = {"learning_rate": 2e-3, "train_steps": 7, "rank": 4, "prior_loss_weight": 0.5}
    choice = chosen(16, tmp_path, **changes)
    for name, value in changes.items():
        assert getattr(choice.run, name) == value
    assert choice.reason.endswith("; learning_rate, train_steps, rank, prior_loss_weight as set")
    run = run_on(MINI, Settings(base="mini", prior_loss_weight=0.0))
    assert defaults.choose(run, of(16, tmp_path), never).run.prior_loss_weight == 0


def test_a_size_that_the_base_cannot_draw_has_no_prior_pictures(tmp_path):
    assert chosen(16, tmp_path, resolution=128).run.prior_loss_weight == 1.0
    assert chosen(16, tmp_path, resolution=64).run.prior_loss_weight == 0.0
    kept = chosen(16, tmp_path, resolution=64, prior_loss_weight=0.5)
    assert kept.run.prior_loss_weight == 0.5


def test_alpha_follows_the_rank_unless_it_is_set(tmp_path):
    base = replace(MINI, small_set=MINI.small_set | {"rank": 8})
    assert chosen(16, tmp_path, base=base).run.alpha == 8.0
    assert chosen(16, tmp_path, base=base, alpha=2.0).run.alpha == 2.0


def test_a_batch_has_no_more_pictures_than_there_are(tmp_path):
    assert chosen(3, tmp_path).run.train_batch_size == 3
    assert chosen(3, tmp_path, train_batch_size=2).run.train_batch_size == 2


@pytest.mark.parametrize("name", ["kolors", "sdxl", "sd15"])
def test_other_bases_are_as_they_were_for_any_set(name, tmp_path):
    base = bases.get(name)
    values = defaults.by_size(base, Settings(base=name), 16)
    assert values["prior_loss_weight"] == 0 and values["rank"] == 16
    for field in ("learning_rate", "train_steps", "train_batch_size"):
        assert values[field] == getattr(base, field)
