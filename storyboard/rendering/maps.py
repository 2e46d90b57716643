"""What a ControlNet sees of a picture: its edges, its colours or its depth; skeletons and segments come ready-made."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..quiet import quiet
from .edges import edges

ANNOTATORS = {"depth": "depth-anything/Depth-Anything-V2-Small-hf"}  # what finds it: a model of transformers in safetensors
READY_MADE = ("pose", "segmentation")  # nothing that is installed draws OpenPose's skeletons or ADE20K's palette
CELLS = 8  # of the palette, along each side


def make(image: Image.Image, control: str, annotator: Path | None = None) -> Image.Image:
    """The map of ``image`` (RGB), of the same size: ``control`` is ``"edges"``, ``"colour"`` or ``"depth"``."""
    if control == "edges":
        return Image.fromarray(edges(np.asarray(image)))
    if control == "colour":
        return image.resize((CELLS, CELLS), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)
    return depth(image, annotator)


@torch.no_grad()
def depth(image: Image.Image, folder: Path) -> Image.Image:
    """Near is bright, as in MiDaS' maps that ControlNets for depth were trained with (https://arxiv.org/abs/1907.01341)."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    with quiet():
        model = AutoModelForDepthEstimation.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    outputs = model(**processor(images=image, return_tensors="pt"))
    found = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])[0]["predicted_depth"]
    found = (found - found.min()) / (found.max() - found.min()).clamp(min=torch.finfo(found.dtype).tiny)
    return Image.fromarray((found * 255).round().byte().cpu().numpy())


def as_tensor(image: Image.Image) -> torch.Tensor:
    """(3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float().div(255)
