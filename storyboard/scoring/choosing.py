"""Which of several checkpoints is the best, by the scores of pictures drawn with each."""

from collections.abc import Mapping
from dataclasses import dataclass

from storyboard import show
from storyboard.errors import ScoringError
from storyboard.lora.file import Lora
from storyboard.scoring.scores import Measure, Scores

TOLERANCE = {"match": 5.0, "style": 1.0}  # differences that are chance in a handful of panels


@dataclass(frozen=True)
class Choice:
    """The checkpoint that ``best`` takes.

    Attributes:
        lora: What to give to ``render``.
        scores: Of each checkpoint.
        reason: Why this one, in a sentence.
    """

    lora: Lora
    scores: Scores
    reason: str

    def __str__(self) -> str:
        return f"{self.scores}\n{self.reason}"

    def _repr_html_(self) -> str:
        return self.scores._repr_html_() + show.table("", [self.reason], [])


def choose(sets: Mapping[str, Mapping[str, Measure]]) -> tuple[str, str]:
    """The name of the best set of pictures, and why; of equals the last.

    Those that match their prompts about as well as the best are taken; of these, those whose style
    is about as near to the training set as the nearest; of these, the best match. "About" is
    TOLERANCE.

    Args:
        sets: name -> measure -> Measure.

    Raises:
        ScoringError: Neither match nor style was measured for all sets.
    """
    match = _values(sets, "match")
    distance = _values(sets, "style")
    if not match and not distance:
        reading = next(iter(sets.values()))["style"].reading
        raise ScoringError(
            "The checkpoints cannot be told apart, neither match nor style can be measured "
            f"({reading}): go on with the last."
        )

    candidates = list(sets)
    if match:
        least = max(match.values()) - TOLERANCE["match"]
        candidates = [name for name in candidates if match[name] >= least]
    if distance:
        most = min(distance[name] for name in candidates) + TOLERANCE["style"]
        candidates = [name for name in candidates if distance[name] <= most]
    best = max(reversed(candidates), key=lambda name: match.get(name, 0.0))

    measured = [name for name, values in (("match", match), ("style", distance)) if values]
    step = best.removeprefix("step ")
    return best, f"{best} is the best by {' and '.join(measured)} · 综合得分最好的是第 {step} 步"


def _values(sets: Mapping[str, Mapping[str, Measure]], measure: str) -> dict[str, float]:
    """The numbers of ``measure`` by set; none unless every set has one."""
    values = {name: measures[measure].value for name, measures in sets.items()}
    numbers = {name: value for name, value in values.items() if value is not None}
    return numbers if len(numbers) == len(values) else {}
