"""The account of a cleaning: what each operator kept and dropped, and why each row was dropped."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from storyboard.data.captions import CaptionRow

FAILED = "the operator failed"  # what the reason begins with where an operator raised an error


@dataclass(frozen=True)
class OperatorCount:
    """How many rows an operator kept and dropped, and how many seconds it took.

    Attributes:
        note: What it did not judge, and why.
        limits: What it measures, by its name in the statistics, with the least and the largest
            value that it keeps; None where it has no such limit.
    """

    operator: str
    kept: int
    dropped: int
    seconds: float
    note: str = ""
    limits: dict[str, list[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class DroppedRow:
    """A row that an operator dropped: its caption and picture, and why.

    ``image`` is relative to the folder of the collected pictures.
    """

    id: str
    text: str
    image: str
    operator: str
    reason: str

    @property
    def failed(self) -> bool:
        """Whether the operator failed at the row instead of judging it."""
        return self.reason.startswith(FAILED)


@dataclass
class Account:
    """What became of every row so far.

    Attributes:
        rows: By id.
        recipe: File of the recipe.
        operators: In the order in which they ran.
        statistics: What was measured of a row, by its id.
    """

    rows: Mapping[str, CaptionRow]
    recipe: Path
    operators: list[OperatorCount] = field(default_factory=list)
    dropped: list[DroppedRow] = field(default_factory=list)
    statistics: dict[str, dict] = field(default_factory=dict)

    def enter(
        self,
        operator: str,
        before: Sequence[str],
        after: Collection[str],
        reasons: Mapping[str, str],
        seconds: float,
        note: str = "",
        limits: Mapping[str, list[float | None]] = MappingProxyType({}),
    ) -> None:
        """Note that ``operator`` was given the rows ``before`` and kept those ``after``, by id."""
        kept = set(after)
        for row_id in before:
            if row_id in kept:
                continue
            row = self.rows[row_id]
            reason = reasons.get(row_id, "the operator leaves nothing of it")
            self.dropped.append(DroppedRow(row_id, row.text, row.image, operator, reason))
        dropped = len(before) - len(kept)
        count = OperatorCount(operator, len(kept), dropped, round(seconds, 2), note, dict(limits))
        self.operators.append(count)
