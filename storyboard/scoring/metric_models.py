"""Loads DiffSynth's metrics from a folder, in fp32, with no weight missing."""

from pathlib import Path
from typing import Any

import torch

from storyboard.errors import BaseError
from storyboard.models.layout import differences
from storyboard.models.loading import pretrained
from storyboard.models.safetensors_header import read_header

FILE = "model.safetensors"
OPEN_CLIP = "visual.class_embedding"  # a name that OpenCLIP's files have and transformers' do not


def load_clip(folder: Path, device: str):
    from diffsynth.metrics import CLIPMetric
    from diffsynth.models.clip import CLIPModel

    return _load_on_clip(CLIPMetric, CLIPModel, folder, device)


def load_pickscore(folder: Path, device: str):
    from diffsynth.metrics import PickScoreMetric
    from diffsynth.models.pickscore import PickScoreModel

    return _load_on_clip(PickScoreMetric, PickScoreModel, folder, device)


def load_hps(folder: Path, device: str):
    from diffsynth.metrics import HPSv2Metric
    from diffsynth.models.hpsv2 import HPSv2Model

    return _load_on_clip(HPSv2Metric, HPSv2Model, folder, device)


def _load_on_clip(metric_class: Any, model_class: Any, folder: Path, device: str):
    """DiffSynth's ``metric_class``, whose ``model_class`` wraps a CLIP.

    Raises:
        BaseError: The file holds other tensors than ``config.json`` describes.
    """
    from diffsynth.core import ModelConfig
    from transformers import CLIPModel, CLIPProcessor

    file = folder / FILE
    header = read_header(file)
    if not (folder / "config.json").is_file():
        # DiffSynth knows the published file by its names and shapes
        configs = [ModelConfig(path=str(path)) for path in (file, folder)]
        return metric_class.from_pretrained(*configs, torch.float32, device)

    if OPEN_CLIP in header:
        clip = _open_clip(folder)
    else:
        clip = pretrained(CLIPModel, folder, dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    return metric_class(model_class(clip.to(device), processor).eval())


def _open_clip(folder: Path) -> torch.nn.Module:
    """The CLIP in ``folder`` whose tensors have OpenCLIP's names, as HPS v2 is published.

    Raises:
        BaseError: The file holds other tensors than ``config.json`` describes.
    """
    from accelerate import init_empty_weights
    from diffsynth.utils.state_dict_converters.image_metrics import (
        ImageMetricsOpenCLIPStateDictConverter as convert,
    )
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel

    path = folder / FILE
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    tensors.pop("attn_mask", None)  # follows from the length; in older files
    unknown = [name for name, tensor in tensors.items() if not convert({name: tensor})]
    if unknown:
        raise BaseError(
            f"{path} holds {unknown[0]}, which OpenCLIP's model does not have: get it again."
        )

    tensors = convert(tensors)
    with init_empty_weights(include_buffers=False):
        model = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
    wrong = differences(model, {name: tensor.shape for name, tensor in tensors.items()})
    if wrong:
        raise BaseError(
            f"{path} does not hold the CLIP that the config.json beside it describes "
            f"({len(wrong)} tensors differ, such as: {wrong[0]}): get both of the same model."
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def load_aesthetic(folder: Path, device: str):
    from diffsynth.core import ModelConfig
    from diffsynth.metrics import AestheticMetric

    read_header(folder / FILE)
    model, processor = ModelConfig(path=str(folder / FILE)), ModelConfig(path=str(folder))
    return AestheticMetric.from_pretrained(model, processor, torch.float32, device)


def load_inception(folder: Path, device: str):
    from diffsynth.core import ModelConfig
    from diffsynth.metrics import FIDMetric

    read_header(folder / FILE)
    return FIDMetric.from_pretrained(ModelConfig(path=str(folder / FILE)), device)
