"""Hyperparameters that follow the training set, where the settings leave them None.

A large set takes the base's. A small one takes ``Base.small_set``: what a set of hundreds learns by
once over, a small one learns by heart, and forgets the rest. How far it is from what the base draws
decides how long that takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from storyboard.data.captions import Captions
from storyboard.models.base import Base
from storyboard.models.run import Run
from storyboard.settings import Settings

SMALL_SET = 100  # fewer pictures are few
NEAR = 5.0  # times the loss on the base's own pictures
NAMES = ("learning_rate", "train_steps", "train_batch_size", "rank", "prior_loss_weight")


@dataclass(frozen=True)
class Choice:
    """What a LoRA is trained by.

    Attributes:
        run: With the values that were chosen.
        reason: Why these, in a line.
    """

    run: Run
    reason: str


def by_size(base: Base, settings: Settings, pictures: int) -> dict[str, Any]:
    """What NAMES come to for a set of so many pictures, before its distance is known."""
    small = dict(base.small_set) if pictures < SMALL_SET else {}
    if (settings.resolution or base.resolution) < base.resolution / 2:
        small.pop("prior_loss_weight", None)  # so small, the base draws nothing worth keeping
    values = {}
    for name in NAMES:
        own = getattr(settings, name)
        values[name] = small.get(name, getattr(base, name)) if own is None else own
    if settings.train_batch_size is None:
        values["train_batch_size"] = min(values["train_batch_size"], pictures)
    return values


def choose(run: Run, captions: Captions, distance: Callable[[Run], float]) -> Choice:
    """``run`` with values that suit ``captions`` where its settings have None.

    Args:
        distance: How many times as large the loss of the base is on ``captions`` as on pictures of
            its own; only called for a small set whose steps are open and that has prior pictures.
    """
    settings, base, pictures = run.settings, run.base, len(captions)
    values = by_size(base, settings, pictures)
    why = f"as usual for {base.name} with {pictures} pictures"

    if pictures < SMALL_SET and base.small_set:
        why = f"because {pictures} pictures are few"
        if settings.train_steps is None and values["prior_loss_weight"]:
            times = distance(replace(run, prior_loss_weight=values["prior_loss_weight"]))
            is_far = times >= NEAR
            if not is_far:
                values["train_steps"] = base.train_steps
            why += (
                f" and {'far from' if is_far else 'near'} what {base.name} draws "
                f"({times:.1f} times the loss of its own)"
            )

    alpha = float(values["rank"]) if settings.alpha is None else run.alpha
    kept = [name for name in NAMES if getattr(settings, name) is not None]
    as_set = f"; {', '.join(kept)} as set" if kept else ""
    return Choice(replace(run, **values, alpha=alpha), f"{_shown(values)}, {why}{as_set}")


def _shown(values: dict) -> str:
    shown = (
        f"learning rate {values['learning_rate']:g}, {values['train_steps']:,} steps of "
        f"{values['train_batch_size']}, rank {values['rank']}"
    )
    weight = values["prior_loss_weight"]
    return f"{shown}, prior loss weight {weight:g}" if weight else shown
