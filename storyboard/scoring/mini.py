"""The judge of ``mini``: the repository's attribute classifier stands in for CLIP and Inception."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from storyboard import artifacts
from storyboard.models import classifier
from storyboard.scoring import competence, feature_statistics
from storyboard.scoring.judge import FeaturePair
from storyboard.scoring.scores import Measure

LISTED = 6  # attributes that are missing, by name


class MiniJudge:
    """A ``Judge`` that measures with the attribute classifier."""

    feature_kinds: ClassVar[Mapping[str, str]] = {"coherence": "classifier", "style": "classifier"}
    is_complete = True  # nothing has to be fetched

    @cached_property
    def model(self) -> classifier.Classifier:
        return classifier.load()

    def fingerprint_inputs(self) -> dict[str, object]:
        """What the numbers depend on."""
        return {
            "judge": artifacts.digest_of_file(classifier.WEIGHTS),
            "limits": competence.LIMITS,
            "versions": artifacts.versions("torch", "pillow"),
        }

    def refusal(self, texts: Sequence[str], features: Callable[[], torch.Tensor]) -> str | None:
        """Why the classifier cannot judge this training set, by ``competence.refusal``."""
        return competence.refusal(self.model, texts, features())

    def match(self, paths: Sequence[Path], prompts: Sequence[str]) -> Measure:
        """Percent of the attributes named in the prompts that the pictures show."""
        wanted = [classifier.readable(prompt) for prompt in prompts]
        if reason := competence.unreadable(wanted):
            return Measure(None, reason)
        total = sum(len(attributes) for attributes in wanted)

        missing = []
        seen = classifier.read(self.model, _pixels(paths))
        for number, (attributes, shown) in enumerate(zip(wanted, seen, strict=True), 1):
            for attribute, values in attributes.items():
                if shown[attribute] not in values:
                    missing.append(f"{number} {attribute.replace('_', ' ')}")

        found = total - len(missing)
        return Measure(
            100 * found / total,
            f"{found} of {total} attributes named in the prompts are seen{_listed(missing)} "
            f"· 提示词写到的 {total} 个特征画出 {found} 个",
        )

    def features(self, kind: str, paths: Sequence[Path]) -> torch.Tensor:
        """(n, 2048) of each picture."""
        return classifier.features(self.model, _pixels(paths))

    def preference(self, paths: Sequence[Path], prompts: Sequence[str]) -> dict[str, Measure]:
        """Nothing: models of what people prefer know large pictures alone."""
        return {}

    def aesthetics(self, paths: Sequence[Path], style: Callable[[], FeaturePair]) -> Measure:
        """Percent of the pictures that are drawn as the training set's are (``precision``).

        A stand-in: there is no predictor of beauty for drawings of 256 pixels. It refuses a face
        or a thing that came out deformed, and another style; it does not notice a blurred line.
        """
        of_pictures, of_training_set = style()
        if reason := competence.too_few(len(of_training_set)):
            return Measure(None, reason)

        is_among = feature_statistics.precision(of_pictures, of_training_set).tolist()
        count, drawn = len(is_among), sum(is_among)
        others = [str(number) for number, among in enumerate(is_among, 1) if not among]
        except_for = f", not panel {', '.join(others)}" if 0 < drawn < count else ""
        return Measure(
            100 * drawn / count,
            f"stand-in, in %: {drawn} of {count} are drawn as the training set's pictures are"
            f"{except_for}; other bases: the contest asked for 6 of 10 "
            f"· 代替指标：{count} 格中 {drawn} 格的画法与训练集一致；其他底模按赛题看 6 分",
        )


def _listed(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    rest = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    return f"; not in panel {', '.join(missing[:LISTED])}{rest}"


def _pixels(paths: Sequence[Path]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        return np.stack(list(pool.map(classifier.pixels, paths)))
