"""Stage 5, score: how well pictures show their prompts, hold together and keep the style."""

import copy
from dataclasses import replace
from pathlib import Path

from storyboard import artifacts, show, stages
from storyboard.data.captions import Captions
from storyboard.errors import LoraError, SettingsError
from storyboard.lora.file import Lora
from storyboard.models import devices, memory
from storyboard.models.run import check
from storyboard.rendering.pictures import Pictures
from storyboard.rendering.stage import render
from storyboard.scoring.choosing import Choice, choose
from storyboard.scoring.judge import Judge
from storyboard.scoring.measuring import measure
from storyboard.scoring.scores import BASE, LORA, Measure, Scores
from storyboard.settings import Settings
from storyboard.story import Story

FOLDER = "scores"


@stages.stage("score")
def score(
    pictures: Pictures,
    settings: Settings,
    captions: Captions,
    base: Pictures | None = None,
    preference: bool = False,
) -> Scores:
    """Measure ``pictures``, and beside them ``base``, those of the base alone.

    Match is the percentage of the attributes named in the prompts that are seen (``mini``) or a
    CLIP score; coherence the mean cosine of every two pictures' features; style the kernel distance
    to the training set (``feature_statistics.py``); crispness the percentage of their area that is
    smudged (``crispness.py``). Numbers lie in ``<output>/scores`` and are computed once. What
    has no weights to measure it is said in its row.

    Args:
        captions: What the LoRA was trained on.
        preference: Also PickScore and HPS v2 (3.9 GB to fetch for each); not for ``mini``.

    Raises:
        ScoringError: A picture is gone.
        RenderingError: Pictures of another story were drawn over them.
    """
    judge = _judge_for(settings, preference)
    folder = settings.folder / FOLDER
    name = LORA if pictures.panels[0].lora else BASE
    sets = {name: measure(pictures, captions, judge, folder)}
    if base is not None:
        sets[BASE] = measure(base, captions, judge, folder)
    scores = Scores(sets)
    show.tell(scores)
    return scores


@stages.stage("best")
def best(
    lora: Lora, story: Story, settings: Settings, captions: Captions, panels: int = 4
) -> Choice:
    """Choose among the checkpoints that training kept, by the first ``panels`` of ``story``.

    They are drawn with each checkpoint and scored; ``choosing.choose`` says how the scores decide.

    Raises:
        LoraError: Training kept no checkpoints.
        ScoringError: Neither match nor style can be measured.
        RenderingError, ResourceError: As ``render``.
    """
    if not isinstance(lora, Lora) or len(lora.checkpoints) < 2:
        raise LoraError(
            f"{getattr(lora, 'path', lora)} has no checkpoints beside it: delete its folder and "
            "run the training cell again, or go on with it as it is."
        )
    if not isinstance(panels, int) or panels < 1:
        raise SettingsError(f"panels={panels!r} must be a whole number from 1 on.")

    judge = _judge_for(settings)
    folder = settings.folder / FOLDER
    excerpt = copy.copy(story)
    excerpt.panels = story.panels[:panels]

    sets: dict[str, dict[str, Measure]] = {}
    checkpoints: dict[str, Lora] = {}
    for path in lora.checkpoints:
        step = _step(lora, path)
        name = f"step {step}"
        pictures = render(excerpt, settings, path, folder / f"step-{step:06d}")
        sets[name] = measure(pictures, captions, judge, folder)
        checkpoints[name] = _at(lora, path, step)

    name, reason = choose(sets)
    choice = Choice(checkpoints[name], Scores(sets, name), reason)
    show.tell(choice)
    return choice


def _judge_for(settings: Settings, preference: bool = False) -> Judge:
    """The judge of the pictures of the settings' base.

    Args:
        preference: Also with PickScore and HPS v2, where the base is not ``mini``.
    """
    base = check(settings)
    if base.judge == "mini":
        from storyboard.scoring.mini import MiniJudge

        return MiniJudge()
    from storyboard.scoring.metrics import MetricsJudge

    device = memory.plan(base, settings).device
    # the metrics count in fp64, which Apple's GPU does not have
    return MetricsJudge(devices.CPU if device == devices.MPS else device, preference)


def _step(lora: Lora, path: Path) -> int:
    """The step of training at which the checkpoint ``path`` of ``lora`` was written."""
    return len(lora.losses) if path == lora.path else int(path.stem.removeprefix("step-"))


def _at(lora: Lora, path: Path, step: int) -> Lora:
    """``lora`` as it was after ``step`` steps."""
    if path == lora.path:
        return lora
    digest = artifacts.digest_of_file(path)
    return replace(lora, path=path, digest=digest, losses=lora.losses[:step], previews=[])
