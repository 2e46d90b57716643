"""Maps for ControlNets, made from a picture: edges, colours, depth, segments or a skeleton."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from storyboard.compat.quiet import quiet
from storyboard.errors import SettingsError, reason
from storyboard.models.hubs import HubModel
from storyboard.models.loading import pretrained
from storyboard.rendering import palettes
from storyboard.rendering.edges import edges

# the models that make maps, of transformers' classes, in safetensors
ANNOTATORS = {
    "depth": HubModel(huggingface="depth-anything/Depth-Anything-V2-Small-hf"),
    "pose": HubModel(huggingface="usyd-community/vitpose-base-simple"),
    "segmentation": HubModel(huggingface="nvidia/segformer-b0-finetuned-ade-512-512"),
}
CELLS = 8  # of the colour map, along each side
MIN_CONFIDENCE = 0.3  # in a point of the skeleton, 0 to 1
STROKE = 4 / 512  # half a limb's width, in sides of the picture
COCO_POINTS = 17


def make(image: Image.Image, control: str, annotator: Path | None = None) -> Image.Image:
    """The map of ``image`` (RGB), of the same size.

    Args:
        control: A key of ANNOTATORS, ``"edges"`` or ``"colour"``.
        annotator: Folder of the model, for a key of ANNOTATORS.

    Raises:
        SettingsError: ``annotator`` is a model for something else, or finds nobody in the picture.
    """
    if control == "edges":
        return Image.fromarray(edges(np.asarray(image)))
    if control == "colour":
        cells = image.resize((CELLS, CELLS), Image.Resampling.BOX)
        return cells.resize(image.size, Image.Resampling.NEAREST)
    return {"depth": depth, "pose": pose, "segmentation": segmentation}[control](image, annotator)


@torch.no_grad()
def depth(image: Image.Image, folder: Path) -> Image.Image:
    """Near is bright, as in MiDaS' maps, which ControlNets for depth were trained with.

    (https://arxiv.org/abs/1907.01341)
    """
    model, processor = _load("AutoModelForDepthEstimation", folder)
    outputs = model(**processor(images=image, return_tensors="pt"))
    sizes = [image.size[::-1]]
    processed = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
    values = processed[0]["predicted_depth"]
    smallest = torch.finfo(values.dtype).tiny
    values = (values - values.min()) / (values.max() - values.min()).clamp(min=smallest)
    return Image.fromarray((values * 255).round().byte().cpu().numpy())


@torch.no_grad()
def segmentation(image: Image.Image, folder: Path) -> Image.Image:
    """Each of ADE20K's classes in its colour."""
    model, processor = _load("AutoModelForSemanticSegmentation", folder)
    if model.config.num_labels != len(palettes.ADE20K):
        raise SettingsError(
            f"{folder} tells {model.config.num_labels} classes apart, where ControlNets for "
            f"segmentation know ADE20K's {len(palettes.ADE20K)}: name another annotator."
        )
    outputs = model(**processor(images=image, return_tensors="pt"))
    sizes = [image.size[::-1]]
    classes = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0]
    return Image.fromarray(palettes.ADE20K[classes.cpu().numpy()])


@torch.no_grad()
def pose(image: Image.Image, folder: Path) -> Image.Image:
    """OpenPose's skeleton of one person, whom the whole picture is taken for."""
    model, processor = _load("VitPoseForPoseEstimation", folder)
    boxes = [[[0.0, 0.0, float(image.width), float(image.height)]]]
    outputs = model(**processor(images=image, boxes=boxes, return_tensors="pt"))
    person = processor.post_process_pose_estimation(outputs, boxes=boxes)[0][0]
    keypoints, scores = person["keypoints"], person["scores"]
    if len(keypoints) != COCO_POINTS:
        raise SettingsError(
            f"{folder} finds {len(keypoints)} points of a person where COCO has {COCO_POINTS}: "
            "name another annotator."
        )
    points = []
    for indices in map(list, palettes.OPENPOSE):
        is_seen = scores[indices].min().item() >= MIN_CONFIDENCE
        points.append(keypoints[indices].mean(0).tolist() if is_seen else None)
    return skeleton(points, image.size)


def skeleton(points: list[tuple[float, float] | None], size: tuple[int, int]) -> Image.Image:
    """OpenPose's drawing of 18 points (x, y) in pixels, None where one is not seen.

    Raises:
        SettingsError: None is seen.
    """
    if not any(points):
        raise SettingsError(
            'Reference(control="pose") finds nobody in the picture: give one in which a person is '
            "seen, or a drawn skeleton with prepared=True."
        )
    drawn = Image.new("RGB", size)
    pen = ImageDraw.Draw(drawn)
    half = max(1, round(STROKE * min(size)))

    # there are 18 points and 17 limbs
    for (start, end), hue in zip(palettes.LIMBS, palettes.HUES, strict=False):
        if points[start] and points[end]:
            colour = tuple(int(palettes.LIMB * value) for value in hue)
            pen.line([*points[start], *points[end]], fill=colour, width=2 * half)
    for point, hue in zip(points, palettes.HUES, strict=True):
        if point:
            x, y = point
            pen.ellipse([x - half, y - half, x + half, y + half], fill=hue)
    return drawn


def _load(kind: str, folder: Path) -> tuple[torch.nn.Module, Callable]:
    """A model of transformers' class ``kind`` and its image processor."""
    import transformers

    try:
        model = pretrained(getattr(transformers, kind), folder)
        with quiet():
            # by itself it asks at the keyboard whether to run code of the folder
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises whatever its own code meets
        title = kind.removeprefix("AutoModelFor")
        raise SettingsError(
            f"{folder} is no model for {title} ({reason(error)}): name another annotator."
        ) from error
    return model, processor


def as_tensor(image: Image.Image) -> torch.Tensor:
    """(3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float().div(255)
