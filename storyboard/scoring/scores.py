"""What scoring returns: measures of sets of pictures, as tables."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from storyboard import show

TITLES = {
    "match": "picture-text match 图文匹配 %",
    "coherence": "coherence 连贯 0-100",
    "style": "style distance 画风距离",
    "crispness": "smudged 糊边 %",
    "aesthetics": "aesthetics 美学",
    "pickscore": "PickScore 偏好",
    "hps": "HPS v2 偏好",
}
LORA, BASE = "LoRA", "base"  # names of sets


@dataclass(frozen=True)
class Measure:
    """A number, None where it cannot be had, and what it says to a person."""

    value: float | None
    reading: str

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.1f}"


class Unmeasurable(Exception):
    """Something cannot be measured; says why to a person. Ends as the reading of a Measure."""


@dataclass(frozen=True)
class Scores:
    """What was measured of one or more sets of pictures.

    Attributes:
        sets: name of the set -> measure -> Measure, the measures being those of TITLES; the last
            two only where they were asked for.
        about: The set whose readings are shown; the first if None.
    """

    sets: dict[str, dict[str, Measure]]
    about: str | None = None

    def value(self, measure: str, name: str = LORA) -> float | None:
        """A single number, such as ``scores.value("match")``."""
        return self.sets[name][measure].value

    def _rows(self) -> list[list[str]]:
        """A measure a row: its title, each set's number, the reading of one."""
        measured = next(iter(self.sets.values()))
        rows = []
        for measure, title in TITLES.items():
            if measure in measured:
                values = [str(measures[measure]) for measures in self.sets.values()]
                rows.append([title, *values, self._reading(measure)])
        return rows

    def _reading(self, measure: str) -> str:
        about = self.about or next(iter(self.sets))
        shown = self.sets[about][measure]
        base = self.sets.get(BASE, {}).get(measure)
        if measure != "style" or about == BASE or base is None:
            return shown.reading
        if shown.value is None or base.value is None or base.value <= 0:
            return shown.reading

        share = round(100 * (1 - shown.value / base.value))
        if share > 0:
            return f"{share} % of the distance of the base is gone; {shown.reading}"
        return f"no nearer than the base; {shown.reading}"

    def __str__(self) -> str:
        rows = [["", *self.sets, ""], *self._rows()]
        widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        return "\n".join(_line(row, widths) for row in rows)

    def _repr_html_(self) -> str:
        return show.table("Scores 评分", ["", *self.sets, "what it says 说明"], self._rows())


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """``cells`` in columns, the last of which has no width."""
    *columns, last = cells
    padded = [
        cell + " " * (width - _width(cell)) for cell, width in zip(columns, widths, strict=True)
    ]
    return "  ".join([*padded, last])


def _width(text: str) -> int:
    """Columns that a terminal gives to ``text``: two for each Chinese character."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
