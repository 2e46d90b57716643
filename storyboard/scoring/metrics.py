"""Scores for pictures of any base: DiffSynth-Studio's CLIP, aesthetic, Inception, PickScore and HPS metrics, where their weights can be had."""

import gc
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError

from storyboard import artifacts
from storyboard.compat import diffsynth
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, ResourceError
from storyboard.models import weights
from storyboard.models.base import read_header
from storyboard.models.layout import differences, pretrained
from storyboard.scoring.stage import Measure

MODEL = "DiffSynth-Studio/ImageMetrics"
PARTS = {  # folder of MODEL, and what it is called when it is fetched
    "clip": ("CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP ViT-H/14, for scores"),
    "aesthetic": ("Aesthetic", "the aesthetic predictor, for scores"),
    "inception": ("FID", "Inception, for scores"),
}
PREFERENCE = {"pickscore": ("PickScore", "PickScore"), "hps": ("HPSv2", "HPS v2")}
OPEN_CLIP = "visual.class_embedding"  # a name that OpenCLIP's files have and transformers' do not
CONTEST = 6.0  # of 10: the aesthetic score that the 2024 contest asked for


class Judge:
    """Measures with DiffSynth's metrics, each loaded when it is asked for and freed after; one that cannot be had says why.

    Args:
        preference: Also with PickScore and HPS v2, 3.9 GB each.
    """

    features_for = {"coherence": "clip", "style": "inception"}

    def __init__(self, device: str, preference: bool = False) -> None:
        self.device, self.wanted = device, PARTS | (PREFERENCE if preference else {})

    @cached_property
    def parts(self) -> dict[str, Path | str]:
        """Folders of the weights, or why they are not at hand."""
        found: dict[str, Path | str] = {}
        for part, (folder, title) in self.wanted.items():
            try:
                found[part] = weights.fetch_part(MODEL, folder, title)
            except (BaseError, ResourceError) as error:
                found[part] = str(error)
        return found

    @property
    def lasting(self) -> bool:
        """Whether nothing is missing that may be there next time."""
        return all(isinstance(part, Path) for part in self.parts.values())

    def mark(self) -> dict[str, object]:
        """What the numbers depend on, for a fingerprint."""
        sizes = {
            part: (folder / "model.safetensors").stat().st_size
            for part, folder in self.parts.items()
            if isinstance(folder, Path)
        }
        return {
            "judge": MODEL,
            "sizes": sizes,
            "versions": artifacts.versions("torch", "diffsynth", "transformers", "pillow"),
        }

    def match(self, paths: Sequence[Path], prompts: Sequence[str]) -> Measure:
        """CLIP score, 100 times the cosine of picture and prompt (https://arxiv.org/abs/2104.08718, without its factor)."""
        return self._pairs(
            "clip",
            load_clip,
            paths,
            prompts,
            "CLIP score; a fitting pair has 25 to 35",
            "CLIP 图文分，相符通常在 25 到 35",
        )

    def preference(self, paths: Sequence[Path], prompts: Sequence[str]) -> dict[str, Measure]:
        """What people prefer, PickScore (https://arxiv.org/abs/2305.01569) and HPS v2 (https://arxiv.org/abs/2306.09341), if it is wanted."""
        if "pickscore" not in self.wanted:
            return {}
        return {
            "pickscore": self._pairs(
                "pickscore",
                load_pickscore,
                paths,
                prompts,
                "people's choice among pictures; good ones have 20 to 23",
                "人类偏好，好图通常在 20 到 23",
            ),
            "hps": self._pairs(
                "hps",
                load_hps,
                paths,
                prompts,
                "people's choice among pictures; good ones have 26 to 30",
                "人类偏好，好图通常在 26 到 30",
            ),
        }

    def _pairs(
        self,
        part: str,
        load: Callable,
        paths: Sequence[Path],
        prompts: Sequence[str],
        said: str,
        chinese: str,
    ) -> Measure:
        """The mean of each picture's score for its own prompt, of prompts in English."""
        read = [
            place
            for place, prompt in enumerate(prompts)
            if not re.search(r"[\u4e00-\u9fff]", prompt)
        ]
        if not read:
            return Measure(
                None,
                "CLIP reads English and every prompt is in Chinese · CLIP 只懂英文，提示词全是中文",
            )
        found = self._with(
            part,
            load,
            lambda metric: [metric.score([prompts[i]], [_opened(paths[i])]) for i in read],
        )
        if isinstance(found, str):
            return Measure(None, found)
        some = (
            ""
            if len(read) == len(prompts)
            else f", of the {len(read)} of {len(prompts)} in English · 只算英文提示词"
        )
        return Measure(torch.tensor(found).mean().item(), f"{said}{some} · {chinese}")

    def features(self, kind: str, paths: Sequence[Path]) -> torch.Tensor | str:
        """CLIP's (n, 1024) or Inception's (n, 2048), on which FID and KID are defined, of each picture; or why not."""
        if kind == "clip":
            return self._with(
                "clip",
                load_clip,
                lambda metric: _in_batches(metric.model.get_image_features, paths),
            )
        return self._with(
            "inception", load_inception, lambda metric: metric.model.get_activations(paths)
        )

    def aesthetics(self, paths: Sequence[Path], features: Callable) -> Measure:
        """LAION's predictor, about 1 to 10."""
        found = self._with(
            "aesthetic",
            load_aesthetic,
            lambda metric: metric.score([_opened(path) for path in paths]),
        )
        if isinstance(found, str):
            return Measure(None, found)
        reached = sum(score >= CONTEST for score in found)
        return Measure(
            sum(found) / len(found),
            f"the contest asked for {CONTEST:g} of 10 or more, which {reached} of {len(found)} reach · 赛题要求 {CONTEST:g} 分以上，{len(found)} 张中 {reached} 张达到",
        )

    def _with(self, part: str, load: Callable, use: Callable):
        folder = self.parts[part]
        if isinstance(folder, str):
            return folder
        try:
            with quiet(), diffsynth.silent():
                return use(load(folder, self.device))
        except (BaseError, OSError, ValueError, SafetensorError) as error:
            return f"{self.wanted[part][1]} in {folder} cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}): get it again"
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()


def load_clip(folder: Path, device: str):
    from diffsynth.metrics import CLIPMetric
    from diffsynth.models.clip import CLIPModel

    return _load(CLIPMetric, CLIPModel, folder, device)


def load_pickscore(folder: Path, device: str):
    from diffsynth.metrics import PickScoreMetric
    from diffsynth.models.pickscore import PickScoreModel

    return _load(PickScoreMetric, PickScoreModel, folder, device)


def load_hps(folder: Path, device: str):
    from diffsynth.metrics import HPSv2Metric
    from diffsynth.models.hpsv2 import HPSv2Model

    return _load(HPSv2Metric, HPSv2Model, folder, device)


def _load(metric: type, model: type, folder: Path, device: str):
    """DiffSynth's ``metric``, which wraps ``model`` around a CLIP; by the folder's own configuration where it has one."""
    from diffsynth.core import ModelConfig
    from transformers import CLIPModel, CLIPProcessor

    weights_file = folder / "model.safetensors"
    if not (
        folder / "config.json"
    ).is_file():  # DiffSynth knows the real file by its names and shapes
        at_hand = [ModelConfig(path=str(path)) for path in (weights_file, folder)]
        return metric.from_pretrained(*at_hand, torch.float32, device)
    if OPEN_CLIP in read_header(weights_file):
        clip = _open_clip(folder)
    else:
        clip = pretrained(CLIPModel, folder, dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    return metric(model(clip.to(device), processor).eval())


def _open_clip(folder: Path) -> torch.nn.Module:
    """The CLIP in ``folder`` whose tensors have OpenCLIP's names, as HPS v2 is published, in fp32.

    Raises:
        BaseError: The file holds other tensors than ``config.json`` describes.
    """
    from accelerate import init_empty_weights
    from diffsynth.utils.state_dict_converters.image_metrics import (
        ImageMetricsOpenCLIPStateDictConverter as convert,
    )
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel

    path = folder / "model.safetensors"
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    tensors.pop("attn_mask", None)  # follows from the length; in older files
    if strange := [name for name, tensor in tensors.items() if not convert({name: tensor})]:
        raise BaseError(
            f"{path} holds {strange[0]}, which OpenCLIP's model does not have: get it again."
        )

    tensors = convert(tensors)
    with init_empty_weights(include_buffers=False):
        model = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
    if wrong := differences(model, {name: tensor.shape for name, tensor in tensors.items()}):
        said = f"{path} does not hold the CLIP that the config.json beside it describes"
        raise BaseError(
            f"{said} ({len(wrong)} tensors differ, such as: {wrong[0]}): get both of the same model."
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def load_aesthetic(folder: Path, device: str):
    from diffsynth.core import ModelConfig
    from diffsynth.metrics import AestheticMetric

    return AestheticMetric.from_pretrained(
        ModelConfig(path=str(folder / "model.safetensors")),
        ModelConfig(path=str(folder)),
        torch.float32,
        device,
    )


def load_inception(folder: Path, device: str):
    from diffsynth.core import ModelConfig
    from diffsynth.metrics import FIDMetric

    return FIDMetric.from_pretrained(ModelConfig(path=str(folder / "model.safetensors")), device)


def _in_batches(features: Callable, paths: Sequence[Path], size: int = 16) -> torch.Tensor:
    return torch.cat(
        [
            features([_opened(path) for path in paths[start : start + size]]).float().cpu()
            for start in range(0, len(paths), size)
        ]
    )


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
