"""The judge of bases other than ``mini``: DiffSynth-Studio's metrics, where they can be had."""

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import torch
from PIL import Image

from storyboard import artifacts
from storyboard import images as picture_files
from storyboard.compat import diffsynth
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, ResourceError, reason
from storyboard.models import weights
from storyboard.scoring import metric_models
from storyboard.scoring.judge import FeaturePair
from storyboard.scoring.scores import Measure, Unmeasurable

MODEL = "DiffSynth-Studio/ImageMetrics"
CONTEST = 6.0  # of 10: the aesthetic score that the 2024 contest asked for
CHINESE = re.compile(r"[\u4e00-\u9fff]")
BATCH_SIZE = 16

T = TypeVar("T")


class Part(NamedTuple):
    """A folder of MODEL, and what it is called when it is fetched."""

    folder: str
    title: str


PARTS = {
    "clip": Part("CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP ViT-H/14, for scores"),
    "aesthetic": Part("Aesthetic", "the aesthetic predictor, for scores"),
    "inception": Part("FID", "Inception, for scores"),
}
PREFERENCE = {"pickscore": Part("PickScore", "PickScore"), "hps": Part("HPSv2", "HPS v2")}


class MetricsJudge:
    """A ``Judge`` that measures with DiffSynth's metrics, each loaded when used and freed after.

    Args:
        device: torch's.
        preference: Also with PickScore and HPS v2, 3.9 GB each.
    """

    feature_kinds: ClassVar[Mapping[str, str]] = {"coherence": "clip", "style": "inception"}

    def __init__(self, device: str, preference: bool = False) -> None:
        self.device = device
        self.parts = PARTS | (PREFERENCE if preference else {})

    @cached_property
    def _fetched(self) -> tuple[dict[str, Path], dict[str, str]]:
        """Folders of the weights by part, and of the other parts why there are none."""
        folders, missing = {}, {}
        for name, part in self.parts.items():
            try:
                folders[name] = weights.fetch_part(MODEL, part.folder, part.title)
            except (BaseError, ResourceError) as error:
                missing[name] = str(error)
        return folders, missing

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing that may be there next time."""
        _, missing = self._fetched
        return not missing

    def fingerprint_inputs(self) -> dict[str, object]:
        """What the numbers depend on."""
        folders, _ = self._fetched
        return {
            "judge": MODEL,
            "sizes": {
                name: (folder / metric_models.FILE).stat().st_size
                for name, folder in folders.items()
            },
            "versions": artifacts.versions("torch", "diffsynth", "transformers", "pillow"),
        }

    def refusal(self, texts: Sequence[str], features: Callable[[], torch.Tensor]) -> str | None:
        """None: CLIP and Inception have seen drawings of every kind."""
        return None

    def match(self, paths: Sequence[Path], prompts: Sequence[str]) -> Measure:
        """CLIP score, 100 times the cosine of picture and prompt.

        That is https://arxiv.org/abs/2104.08718 without its factor.
        """
        reading = "CLIP score; a fitting pair has 25 to 35", "CLIP 图文分，相符通常在 25 到 35"
        return self._pairs("clip", metric_models.load_clip, paths, prompts, *reading)

    def preference(self, paths: Sequence[Path], prompts: Sequence[str]) -> dict[str, Measure]:
        """What people prefer, if that is wanted.

        By PickScore (https://arxiv.org/abs/2305.01569) and HPS v2
        (https://arxiv.org/abs/2306.09341).
        """
        if "pickscore" not in self.parts:
            return {}
        pickscore = (
            "people's choice among pictures; good ones have 20 to 23",
            "人类偏好，好图通常在 20 到 23",
        )
        hps = (
            "people's choice among pictures; good ones have 26 to 30",
            "人类偏好，好图通常在 26 到 30",
        )
        load_pickscore, load_hps = metric_models.load_pickscore, metric_models.load_hps
        return {
            "pickscore": self._pairs("pickscore", load_pickscore, paths, prompts, *pickscore),
            "hps": self._pairs("hps", load_hps, paths, prompts, *hps),
        }

    def _pairs(
        self,
        part: str,
        load: Callable,
        paths: Sequence[Path],
        prompts: Sequence[str],
        english: str,
        chinese: str,
    ) -> Measure:
        """The mean of each picture's score for its own prompt, of prompts in English."""
        pairs = [
            (path, prompt)
            for path, prompt in zip(paths, prompts, strict=True)
            if not CHINESE.search(prompt)
        ]
        if not pairs:
            return Measure(
                None,
                "CLIP reads English and every prompt is in Chinese · CLIP 只懂英文，提示词全是中文",
            )

        def scores(metric) -> list:
            return [metric.score([prompt], [_opened(path)]) for path, prompt in pairs]

        try:
            values = self._with(part, load, scores)
        except Unmeasurable as error:
            return Measure(None, str(error))
        counted = f", of the {len(pairs)} of {len(prompts)} in English · 只算英文提示词"
        partial = counted if len(pairs) < len(prompts) else ""
        return Measure(torch.tensor(values).mean().item(), f"{english}{partial} · {chinese}")

    def features(self, kind: str, paths: Sequence[Path]) -> torch.Tensor:
        """CLIP's (n, 1024) or Inception's (n, 2048), on which FID and KID are defined."""

        def by_clip(metric) -> torch.Tensor:
            return _in_batches(metric.model.get_image_features, paths)

        def by_inception(metric) -> torch.Tensor:
            return metric.model.get_activations(paths)

        if kind == "clip":
            return self._with("clip", metric_models.load_clip, by_clip)
        return self._with("inception", metric_models.load_inception, by_inception)

    def aesthetics(self, paths: Sequence[Path], style: Callable[[], FeaturePair]) -> Measure:
        """LAION's predictor, about 1 to 10."""

        def scores(metric) -> list[float]:
            return metric.score([_opened(path) for path in paths])

        try:
            values = self._with("aesthetic", metric_models.load_aesthetic, scores)
        except Unmeasurable as error:
            return Measure(None, str(error))
        count, reached = len(values), sum(value >= CONTEST for value in values)
        return Measure(
            sum(values) / count,
            f"the contest asked for {CONTEST:g} of 10 or more, which {reached} of {count} reach "
            f"· 赛题要求 {CONTEST:g} 分以上，{count} 张中 {reached} 张达到",
        )

    def _with(self, part: str, load: Callable, use: Callable[..., T]) -> T:
        """What ``use`` makes of the metric that ``load`` loads.

        Raises:
            Unmeasurable: Its weights are not at hand, or are not what they should be.
        """
        folders, missing = self._fetched
        if part in missing:
            raise Unmeasurable(missing[part])
        folder = folders[part]
        try:
            with quiet(), diffsynth.silent():
                return use(load(folder, self.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the libraries raise whatever their own code meets
            raise Unmeasurable(
                f"{self.parts[part].title} in {folder} cannot be used ({reason(error)}): "
                "get it again"
            ) from error
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()


def _in_batches(features: Callable, paths: Sequence[Path]) -> torch.Tensor:
    batches = []
    for start in range(0, len(paths), BATCH_SIZE):
        images = [_opened(path) for path in paths[start : start + BATCH_SIZE]]
        batches.append(features(images).float().cpu())
    return torch.cat(batches)


def _opened(path: Path) -> Image.Image:
    return picture_files.read(path).image
