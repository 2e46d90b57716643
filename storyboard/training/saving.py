"""When training writes its state, keeps it elsewhere, and ends for its time budget."""

import time
from collections.abc import Callable
from pathlib import Path

from storyboard import durations
from storyboard.errors import TimeBudgetError
from storyboard.keeping.along import Along
from storyboard.training.checkpoint import TrainingState

PARTS = 4  # the state is written after each of so many equal parts
SECONDS = 300.0  # and so long after it was written last
LARGEST_SHARE = 0.1  # of the time that writing and keeping may take beside the parts
# what is left of the budget when training ends: this share of it, but no more than so many seconds;
# or, if longer, two steps as long as the longest, and writing and keeping as they took last
RESERVE, LONGEST_RESERVE = 0.05, 60.0

Clock = Callable[[], float]


class TimeBudget:
    """How long a call of ``train`` may take, from when this is made.

    Args:
        written: As in ``Settings.time_budget``.
        clock: Seconds, of any origin.
    """

    def __init__(self, written: str | float, clock: Clock = time.monotonic) -> None:
        self.seconds = durations.seconds(written)
        self._clock, self._end = clock, clock() + self.seconds

    @classmethod
    def of(cls, written: str | float | None, clock: Clock = time.monotonic) -> "TimeBudget | None":
        """None where none is set."""
        return None if written is None else cls(written, clock)

    def __str__(self) -> str:
        return durations.shown(self.seconds)

    def is_over(self, needed: float) -> bool:
        """Whether fewer than ``needed`` seconds, or than the reserve, are left."""
        reserve = min(RESERVE * self.seconds, LONGEST_RESERVE)
        return self._end - self._clock() < max(needed, reserve)


class Saving:
    """Writes the state of training along the way; results do not depend on when.

    Args:
        path: Of the state, from which an interrupted run goes on.
        along: Copies it elsewhere whenever it was written.
        budget: Ends training in time; None lets it take what it takes.
        clock: Seconds, of any origin.
    """

    def __init__(
        self,
        path: Path,
        along: Along | None = None,
        budget: TimeBudget | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.path, self.along, self.budget, self._clock = path, along, budget, clock
        self._stepped = self._saved = clock()
        self._longest_step = self._last_cost = 0.0

    def begin(self) -> None:
        """What comes before the first step is done."""
        self._stepped = self._saved = self._clock()

    def after(self, number: int, total: int, state: TrainingState) -> None:
        """Step ``number`` of ``total`` is done, and is not the last.

        Raises:
            TimeBudgetError: The budget is over; the state is written, and kept.
        """
        now = self._clock()
        self._longest_step = max(self._longest_step, now - self._stepped)
        is_over = self.budget and self.budget.is_over(2 * self._longest_step + self._last_cost)
        if is_over or self._is_due(number, total, now):
            self._save(state)
        if is_over:
            raise TimeBudgetError(
                f"The time budget of {self.budget} ended training at step {number} of {total}; its "
                f"state is in {self.path.parent}{self.along or ''}: run this cell again to go on "
                "from there, on another machine after restore(settings)."
            )
        self._stepped = self._clock()

    def _is_due(self, number: int, total: int, now: float) -> bool:
        interval = max(SECONDS, self._last_cost / LARGEST_SHARE)
        return number % max(1, total // PARTS) == 0 or now - self._saved >= interval

    def _save(self, state: TrainingState) -> None:
        began = self._clock()
        state.save(self.path)
        if self.along:
            self.along.keep()
        self._saved = self._clock()
        self._last_cost = self._saved - began
