"""Scores for ``mini``: the repository's attribute classifier and its features stand in for CLIP and Inception."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from storyboard import artifacts, vocabulary
from storyboard.scoring import classifier, measures
from storyboard.scoring.stage import Measure

NAMED = 6  # attributes that are missing, by name


class Judge:
    """Measures with the attribute classifier."""

    lasting = True  # nothing has to be fetched
    features_for = {"coherence": "classifier", "style": "classifier"}

    @cached_property
    def model(self) -> classifier.Classifier:
        return classifier.load()

    def mark(self) -> dict[str, object]:
        """What the numbers depend on, for a fingerprint."""
        return {
            "judge": artifacts.digest_of_file(classifier.WEIGHTS),
            "versions": artifacts.versions("torch", "pillow"),
        }

    def match(self, paths: Sequence[Path], prompts: Sequence[str]) -> Measure:
        """Percent of the attributes named in the prompts that the pictures show."""
        readable = lambda wanted: {
            name: found
            for name, values in wanted.items()
            if (found := values & set(classifier.VALUES[name]))
        }
        asked = [readable(vocabulary.asked(prompt)) for prompt in prompts]
        total = sum(map(len, asked))
        if not total:
            return Measure(
                None,
                "no prompt names anything that mini was taught (hair, expression, clothes, place, thing) · 提示词里没有可核对的特征",
            )
        missed = []
        for place, (wanted, seen) in enumerate(
            zip(asked, classifier.read(self.model, _pixels(paths)), strict=True), 1
        ):
            missed += [
                f"{place} {attribute.replace('_', ' ')}"
                for attribute, values in wanted.items()
                if seen[attribute] not in values
            ]
        shown = total - len(missed)
        lacking = (
            f"; not in panel {', '.join(missed[:NAMED])}{f' and {len(missed) - NAMED} more' if missed[NAMED:] else ''}"
            if missed
            else ""
        )
        return Measure(
            100 * shown / total,
            f"{shown} of {total} attributes named in the prompts are seen{lacking} · 提示词写到的 {total} 个特征画出 {shown} 个",
        )

    def features(self, kind: str, paths: Sequence[Path]) -> torch.Tensor:
        """(n, 2048) of each picture."""
        return classifier.features(self.model, _pixels(paths))

    def preference(self, paths: Sequence[Path], prompts: Sequence[str]) -> dict[str, Measure]:
        """Nothing: what people prefer is known of large pictures."""
        return {}

    def aesthetics(
        self, paths: Sequence[Path], features: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> Measure:
        """Percent of the pictures that are drawn as the training set's are (measures.precision): a stand-in, no predictor of beauty was made for drawings of 256 pixels.

        A face or a thing that came out deformed falls out, and so does another style; a blurred line does not.
        """
        shown, known = features()
        if len(known) <= measures.NEIGHBOURS:
            return Measure(None, "needs a training set of some more pictures · 训练集要再多几张图")
        among = measures.precision(shown, known)
        drawn, lacking = (
            int(among.sum()),
            ", ".join(str(place) for place, well in enumerate(among.tolist(), 1) if not well),
        )
        said = (
            f"stand-in, in %: {drawn} of {len(among)} are drawn as the training set's pictures are"
            + (f", not panel {lacking}" if 0 < drawn < len(among) else "")
        )
        return Measure(
            100 * drawn / len(among),
            f"{said}; other bases: the contest asked for 6 of 10 · 代替指标：{len(among)} 格中 {drawn} 格的画法与训练集一致；其他底模按赛题看 6 分",
        )


def _pixels(paths: Sequence[Path]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        return np.stack(list(pool.map(classifier.pixels, paths)))
