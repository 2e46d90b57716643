"""What a ControlNet sees of a picture: its edges, colours, depth, segments or the skeleton of who stands in it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, SettingsError
from storyboard.models.hubs import HubModel
from storyboard.models.loading import pretrained
from storyboard.rendering import palettes
from storyboard.rendering.edges import edges

ANNOTATORS = {  # what finds it: models of transformers in safetensors
    "depth": HubModel(huggingface="depth-anything/Depth-Anything-V2-Small-hf"),
    "pose": HubModel(huggingface="usyd-community/vitpose-base-simple"),
    "segmentation": HubModel(huggingface="nvidia/segformer-b0-finetuned-ade-512-512"),
}
CELLS = 8  # of the palette, along each side
SURE = 0.3  # of a point of the skeleton, 0 to 1
STROKE = 4 / 512  # half a limb's width, in sides of the picture


def make(image: Image.Image, control: str, annotator: Path | None = None) -> Image.Image:
    """The map of ``image`` (RGB), of the same size; ``control`` is a key of ANNOTATORS, ``"edges"`` or ``"colour"``.

    Raises:
        SettingsError: ``annotator`` is a model for something else, or found nobody whose pose it could draw.
    """
    if control == "edges":
        return Image.fromarray(edges(np.asarray(image)))
    if control == "colour":
        return image.resize((CELLS, CELLS), Image.Resampling.BOX).resize(
            image.size, Image.Resampling.NEAREST
        )
    return {"depth": depth, "pose": pose, "segmentation": segmentation}[control](image, annotator)


@torch.no_grad()
def depth(image: Image.Image, folder: Path) -> Image.Image:
    """Near is bright, as in MiDaS' maps that ControlNets for depth were trained with (https://arxiv.org/abs/1907.01341)."""
    model, processor = _load("AutoModelForDepthEstimation", folder)
    outputs = model(**processor(images=image, return_tensors="pt"))
    found = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])[0][
        "predicted_depth"
    ]
    found = (found - found.min()) / (found.max() - found.min()).clamp(
        min=torch.finfo(found.dtype).tiny
    )
    return Image.fromarray((found * 255).round().byte().cpu().numpy())


@torch.no_grad()
def segmentation(image: Image.Image, folder: Path) -> Image.Image:
    """Each of ADE20K's classes in its colour."""
    model, processor = _load("AutoModelForSemanticSegmentation", folder)
    if model.config.num_labels != len(palettes.ADE20K):
        raise SettingsError(
            f"{folder} tells {model.config.num_labels} classes apart, where ControlNets for segmentation know ADE20K's {len(palettes.ADE20K)}: name another annotator."
        )
    outputs = model(**processor(images=image, return_tensors="pt"))
    return Image.fromarray(
        palettes.ADE20K[
            processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[
                0
            ]
            .cpu()
            .numpy()
        ]
    )


@torch.no_grad()
def pose(image: Image.Image, folder: Path) -> Image.Image:
    """OpenPose's skeleton of one person, whom the whole picture is taken for."""
    model, processor = _load("VitPoseForPoseEstimation", folder)
    everything = [[[0.0, 0.0, float(image.width), float(image.height)]]]
    outputs = model(**processor(images=image, boxes=everything, return_tensors="pt"))
    found = processor.post_process_pose_estimation(outputs, boxes=everything)[0][0]
    if len(found["keypoints"]) != 17:
        raise SettingsError(
            f"{folder} finds {len(found['keypoints'])} points of a person where COCO has 17: name another annotator."
        )
    points = [
        (
            found["keypoints"][list(places)].mean(0).tolist(),
            found["scores"][list(places)].min().item(),
        )
        for places in palettes.OPENPOSE
    ]
    return skeleton([point if score >= SURE else None for point, score in points], image.size)


def skeleton(points: list[tuple[float, float] | None], size: tuple[int, int]) -> Image.Image:
    """OpenPose's drawing of 18 points (x, y) in pixels, None where one is not seen.

    Raises:
        SettingsError: None is seen.
    """
    if not any(points):
        raise SettingsError(
            'Reference(control="pose") finds nobody in the picture: give one in which a person is seen, or a drawn skeleton with prepared=True.'
        )
    drawn, half = Image.new("RGB", size), max(1, round(STROKE * min(size)))
    pen = ImageDraw.Draw(drawn)
    for (start, end), hue in zip(palettes.LIMBS, palettes.HUES):
        if points[start] and points[end]:
            pen.line(
                [*points[start], *points[end]],
                fill=tuple(int(palettes.LIMB * value) for value in hue),
                width=2 * half,
            )
    for point, hue in zip(points, palettes.HUES):
        if point:
            pen.ellipse(
                [point[0] - half, point[1] - half, point[0] + half, point[1] + half], fill=hue
            )
    return drawn


def _load(kind: str, folder: Path) -> tuple[torch.nn.Module, Callable]:
    """A model of transformers' class ``kind`` and its image processor."""
    import transformers

    what = kind.removeprefix("AutoModelFor")
    try:
        model = pretrained(getattr(transformers, kind), folder)
        with quiet():
            return model, transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True
            )
    except (BaseError, OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise SettingsError(
            f"{folder} is no model for {what} ({reason}): name another annotator."
        ) from error


def as_tensor(image: Image.Image) -> torch.Tensor:
    """(3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float().div(255)
