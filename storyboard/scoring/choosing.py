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
    names = list(sets)
    measured = [
        measure
        for measure in ("match", "style")
        if all(measures[measure].value is not None for measures in sets.values())
    ]
    if not measured:
        reading = sets[names[0]]["style"].reading
        raise ScoringError(
            "The checkpoints cannot be told apart, neither match nor style can be measured "
            f"({reading}): go on with the last."
        )

    candidates = names
    if "match" in measured:
        match = {name: sets[name]["match"].value for name in candidates}
        least = max(match.values()) - TOLERANCE["match"]
        candidates = [name for name in candidates if match[name] >= least]
    if "style" in measured:
        distance = {name: sets[name]["style"].value for name in candidates}
        most = min(distance.values()) + TOLERANCE["style"]
        candidates = [name for name in candidates if distance[name] <= most]

    best = max(reversed(candidates), key=lambda name: sets[name]["match"].value or 0.0)
    step = best.removeprefix("step ")
    return best, f"{best} is the best by {' and '.join(measured)} · 综合得分最好的是第 {step} 步"
