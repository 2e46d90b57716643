"""What workers of a cluster are given for a training, and what it comes to on their machines."""

import contextlib
import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from storyboard import disks, locks
from storyboard.data.captions import Captions
from storyboard.errors import BaseError
from storyboard.models.run import resolve
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.training.defaults import Choice
from storyboard.training.saving import TimeBudget


@dataclass(frozen=True)
class Given:
    """What workers are given.

    Attributes:
        keeps: The notebook's process keeps copies whenever the state was written.
        events: A ``post.Post``.
        choice: None until it is made.
    """

    captions: Captions
    settings: Settings
    story: Story | None
    budget: TimeBudget | None
    keeps: bool
    events: Any
    choice: Choice | None = None


def choice_here(given: Given, count: int = 1) -> Choice:
    """What was chosen, with this machine's files, and the plan of its card.

    Args:
        count: Of workers, of which each has a share of a step.

    Raises:
        BaseError: Those files are not the same.
    """
    choice = given.choice
    assert choice is not None
    run = choice.run
    own = resolve(
        given.settings.but(
            base=given.settings.base or run.base.name,
            precision=run.plan.precision,
            train_batch_size=math.ceil(run.train_batch_size / count),
        )
    )
    if own.base_fingerprint != run.base_fingerprint:
        raise BaseError(
            f"The weights of {own.base.name!r} on {socket.gethostname()} are not those of the "
            "cluster's other machines: copy the same files to all."
        )
    return replace(choice, run=replace(run, base=own.base, plan=own.plan))


@contextlib.contextmanager
def working(given: Given, lines: Any) -> Iterator[None]:
    """Inside, this process works for the notebook's; what is printed goes to ``lines``."""
    folder = given.settings.folder
    with locks.joined(folder), disks.working_in(folder), contextlib.redirect_stdout(lines):
        yield
