"""A training that diverges ends, and the earlier LoRA stays."""

import math

import pytest

from storyboard import artifacts, train
from storyboard.errors import TrainingError
from storyboard.models import bases
from storyboard.models.run import run_on
from storyboard.training import loop
from storyboard.training.divergence import LossWatch
from storyboard.training.hyperparameters import Hyperparameters
from tests.test_training import elsewhere

BEGAN = [0.3] * 20


@pytest.fixture
def watch(trained):
    """no_answer, losses -> a training that has come to them."""
    settings = trained[0].but(train_steps=600)
    hyperparameters = Hyperparameters.of(run_on(bases.get("mini"), settings))

    def watched(no_answer, losses):
        watch = LossWatch(no_answer, hyperparameters)
        for step in range(1, len(losses) + 1):
            watch.look(losses[:step])

    return watched


@pytest.mark.parametrize(
    ("no_answer", "losses"),
    [
        (1.0, [0.3]),
        (1.0, [0.3] * 60),
        (1.0, [0.3] * 60 + [10.0]),  # one step of a hard timestep
        (1.0, [0.3] + [50.0] * 38),  # too few to say
        (1.0, [5.0] * 60),  # the base was no better
        (11.0, BEGAN + [0.8] * 30),
    ],
)
def test_losses_of_a_training_that_goes_on(watch, capsys, no_answer, losses):
    watch(no_answer, losses)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("no_answer", "losses", "message"),
    [
        (1.0, BEGAN + [1.1] * 20, r"rose from 0\.30 to 1\.10 by step 40 of 600, where no answer w"),
        (1.0, [5.0] * 20 + [11.0] * 20, r"rose from 5\.00 to 11\.00 by step 40 of 600"),
        (1.0, [0.3, math.nan], r"The loss is nan at step 2 of 600"),
        (1.0, [math.inf], r"The loss is inf at step 1 of 600"),
    ],
)
def test_losses_of_one_that_has_diverged(watch, no_answer, losses, message):
    with pytest.raises(TrainingError, match=message + r".*halve learning_rate \(0\.0045\)"):
        watch(no_answer, losses)


def test_a_loss_that_rises_is_told_once(watch, capsys):
    watch(11.0, BEGAN + [1.0] * 30 + [0.3] * 30 + [1.0] * 30)
    assert capsys.readouterr().out == (
        "train: the loss rose from 0.30 to 1.00 by step 40, learning_rate=0.0045 may be too "
        "large: look at the previews\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("prior_loss_weight", [0.0, 1.0])
def test_a_rate_far_too_large_ends_early_and_keeps_the_earlier_lora(
    trained, tmp_path, monkeypatch, prior_loss_weight
):
    settings, _, captions, _ = trained
    settings = elsewhere(settings, tmp_path, train_steps=2, prior_loss_weight=prior_loss_weight)
    before = train(captions, settings).digest
    watches = []

    def watch(*arguments):
        watches.append(LossWatch(*arguments))
        return watches[-1]

    monkeypatch.setattr(loop, "LossWatch", watch)
    with pytest.raises(TrainingError, match="The loss rose from .* of 200, where no answer would"):
        train(captions, settings.but(train_steps=200, learning_rate=0.1))
    assert artifacts.digest_of_file(settings.folder / "lora" / "lora.safetensors") == before
    assert watches[0].no_answer == pytest.approx(11.01 * (1 + prior_loss_weight), abs=0.01)
