"""Stage 3, train: a LoRA on a frozen base; ``making`` has how."""

import time

from storyboard import stages
from storyboard.data.captions import Captions
from storyboard.keeping.along import Along
from storyboard.lora.file import Lora
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.training import making, on_cluster
from storyboard.training.saving import TimeBudget
from storyboard.training.workers import Surroundings


def train(captions: Captions, settings: Settings, story: Story | None = None) -> Lora:
    """Train a LoRA on ``captions`` into ``<output>/lora``.

    An interrupted call resumes from the last checkpoint, which is written every quarter and every
    five minutes, and kept in ``settings.keep_in``; one that is damaged is left aside, with a line
    printed. A place that does not take it is told, and training goes on.
    The LoRA as it stood after one and two thirds is kept in ``checkpoints/``, for ``best`` to
    choose from. What the settings leave None follows the set (``defaults``), with a line printed.

    Args:
        story: Its first panels are drawn along the way, without references and character
            consistency. It does not enter the fingerprint: an edited prompt
            does not train again.

    Raises:
        SettingsError: More pictures in a step than there are.
        ResourceError: The disk is too small, or cannot be written.
        TrainingError: The training diverged.
        TimeBudgetError: ``settings.time_budget`` is over, counted from the start of this call, in
            which another run may be waited for; the state is saved, and what was trained before is
            untouched.
        KeepingError: ``settings.keep_in`` cannot be used, or holds copies of another run.
    """
    clock = time.monotonic if settings.cluster is None else time.time  # which machines share
    return _trained(captions, settings, story, TimeBudget.of(settings.time_budget, clock))


@stages.stage("train", "lora", "cache/latents", "cache/prior", "cache/prior-latents")
def _trained(
    captions: Captions, settings: Settings, story: Story | None, budget: TimeBudget | None
) -> Lora:
    """``train``, alone in the folder."""
    along = Along(settings, "train")
    along.check()
    surroundings = Surroundings(along, budget)
    if settings.cluster is None:
        lora = making.made(captions, settings, story, surroundings)
    else:
        lora = on_cluster.train(captions, settings, story, surroundings)
    along.keep(last=True)
    return lora
