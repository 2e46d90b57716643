"""Who trains: one process alone, or the workers of a cluster together (``group``).

All workers run the same code and take the same steps. What reads or writes files, draws, prints or
decides is done by the first one; where that ends in an error, all end in it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from storyboard import show

T = TypeVar("T")


class Alone:
    """One process, which does everything; ``group.Group`` does the same among several."""

    is_first = True

    def each(self, function: Callable[[], T], in_turn: bool = False) -> T:
        """Every worker calls ``function``; an error of one is raised by all.

        Args:
            in_turn: The first one first, so that the others find what it wrote.
        """
        return function()

    def shared(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, or raises, to the first worker, the only one that calls it."""
        return function()

    def part(self, batches: Sequence[tuple]) -> Sequence[tuple]:
        """The pictures of a step's weighted batches that this worker computes."""
        return batches

    def summed(
        self, parameters: Iterable[Any], accumulate: Callable[[], tuple[float, int]]
    ) -> tuple[float, int]:
        """Call ``accumulate``; gradients of ``parameters``, and the loss, are all workers' sums."""
        return accumulate()

    def equalise(self, state: Any) -> None:
        """All go on from the first one's ``TrainingState``."""


@dataclass(frozen=True)
class Surroundings:
    """Where training reports and keeps what it makes.

    Attributes:
        along: As of ``Saving``.
        budget: As of ``Saving``.
        live: As ``show.Live``.
    """

    along: Any = None
    budget: Any = None
    live: Callable[[str, int], Any] = show.Live
    workers: Alone = field(default_factory=Alone)
