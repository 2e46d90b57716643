"""What every judge of pictures can do: ``mini.MiniJudge`` and ``metrics.MetricsJudge``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from storyboard.scoring.scores import Measure

# of pictures (n, d), and of the training set (m, d)
FeaturePair = tuple[torch.Tensor, torch.Tensor]


class Judge(Protocol):
    """Measures pictures; what it has no weights for, it says in the measure's reading.

    Attributes:
        feature_kinds: Measure (``"coherence"``, ``"style"``) -> the kind of features it is
            computed from, for ``features``.
    """

    feature_kinds: ClassVar[Mapping[str, str]]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing that may be there next time, so that results can be kept."""

    def fingerprint_inputs(self) -> dict[str, object]:
        """What the numbers depend on."""

    def refusal(self, texts: Sequence[str], features: Callable[[], torch.Tensor]) -> str | None:
        """Why it cannot judge pictures that are drawn like a training set; None where it can.

        Args:
            texts: m captions of the training set.
            features: Computes (m, d) of their pictures, of the kind that ``"style"`` is computed
                from.
        """

    def match(self, paths: Sequence[Path], prompts: Sequence[str]) -> Measure:
        """How well the pictures show their prompts."""

    def aesthetics(self, paths: Sequence[Path], style: Callable[[], FeaturePair]) -> Measure:
        """How beautiful they are.

        Args:
            style: Computes the features of the kind that ``"style"`` is computed from.
        """

    def preference(self, paths: Sequence[Path], prompts: Sequence[str]) -> dict[str, Measure]:
        """What people would prefer, by measure; empty where that is not measured."""

    def features(self, kind: str, paths: Sequence[Path]) -> torch.Tensor:
        """(n, d) features of each picture.

        Raises:
            Unmeasurable: Their weights are not at hand.
        """
