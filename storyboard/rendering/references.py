"""A panel's reference picture: checked before anything is drawn, and what the panel follows."""

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from storyboard import artifacts, images
from storyboard.errors import PictureError, SettingsError
from storyboard.models import weights
from storyboard.models.base import Base, fingerprint_of
from storyboard.records import ReferenceRecord
from storyboard.reference import HUB_ID, OWN, Reference
from storyboard.rendering import annotators, controlnet, image_to_image

MAP_PACKAGES = ("opencv-python-headless", "transformers")  # what makes maps for ControlNets


@dataclass(frozen=True)
class PreparedReference:
    """A reference, checked, with everything at hand that it needs.

    Attributes:
        controlnet, annotator: Folders of the ControlNet, and of the model that makes its map; None
            where there is none.
        record: What enters the panel's fingerprint and its PNG: pictures and models by content,
            never by their paths.
    """

    reference: Reference
    controlnet: Path | None
    annotator: Path | None
    record: ReferenceRecord


def prepare(base: Base, reference: Reference, number: int, steps: int) -> PreparedReference:
    """Check the reference of panel ``number``, from 1, and fetch what it needs.

    Raises:
        SettingsError: The picture cannot be read, the base has no such ControlNet, or
            image-to-image would have no step left.
        BaseError: The ControlNet is missing or made for another base.
    """
    path = expanded(reference.picture)
    check_picture(path, f"The reference of panel {number}")
    facts = {
        "control": reference.control,
        "strength": reference.strength,
        "file": f"panel-{number}-reference.png",
        "picture": artifacts.digest_of_file(path),
    }
    if reference.control == "image":
        if image_to_image.skipped_steps(reference.strength, steps) >= steps:
            raise SettingsError(
                f"Reference(strength={reference.strength:g}) of panel {number} leaves none of "
                f"{steps} steps: lower it or raise num_inference_steps."
            )
        return PreparedReference(reference, None, None, ReferenceRecord(**facts))

    folder = _fetch_controlnet(base, reference)
    annotator = _fetch_annotator(reference)
    record = ReferenceRecord(
        **facts,
        end=reference.end,
        prepared=reference.prepared,
        model=_name(reference.weights),
        controlnet=fingerprint_of(folder),
        annotator=fingerprint_of(annotator) if annotator else None,
        versions={} if reference.prepared else artifacts.versions(*MAP_PACKAGES),
    )
    return PreparedReference(reference, folder, annotator, record)


def _fetch_controlnet(base: Base, reference: Reference) -> Path:
    """The folder of the ControlNet that the reference names, or of the base's own; checked."""
    model = reference.weights or base.controlnets.get(reference.control)
    if not model:
        known = ", ".join(f'"{name}"' for name in sorted(base.controlnets)) or "none"
        raise SettingsError(
            f"The base {base.name!r} has no ControlNet for {reference.control!r} (it has {known}, "
            'and "image" without one): name one with Reference(weights=...).'
        )
    folder = weights.fetch_module(model, f"the ControlNet for {reference.control}")
    controlnet.check(base, folder)
    return folder


def _fetch_annotator(reference: Reference) -> Path | None:
    """The folder of the model that makes the map; None where none is needed."""
    model = reference.annotator or annotators.ANNOTATORS.get(reference.control)
    if reference.prepared or not model:
        return None
    return weights.fetch_module(model, f"the model that finds {reference.control}")


def _name(model: str | None) -> str | None:
    """Which ControlNet other than the base's own: its id at the hubs, or ``OWN``."""
    if not model:
        return None
    is_hub_id = not Path(model).expanduser().exists() and re.fullmatch(HUB_ID, model)
    return model if is_hub_id else OWN


def expanded(path: Path | str) -> Path:
    """``path`` with the home folder for ``~``; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_picture(path: Path, title: str) -> None:
    """Read the picture at ``path`` and print what was repaired or assumed in reading it.

    Raises:
        SettingsError: It cannot be read; the message begins with ``title``.
    """
    try:
        picture = images.read(path)
    except PictureError as error:
        raise SettingsError(
            f"{title}, {error.name}, cannot be read as a picture: {error.reason}, or give the path "
            "of another one."
        ) from error
    for note in picture.notes:
        print(f"render: {title}, {path}: {note}", flush=True)


def square(path: Path | str, resolution: int) -> Image.Image:
    """The picture as ``images.read`` reads it, its middle cut to ``resolution`` pixels a side.

    Raises:
        PictureError: It cannot be read.
    """
    image = images.read(expanded(path)).image
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)


def control_image(prepared: PreparedReference, resolution: int) -> Image.Image:
    """What the panel follows, ``resolution`` pixels a side.

    It is the map that the ControlNet sees, or the picture that image-to-image starts from.
    """
    reference = prepared.reference
    image = square(reference.picture, resolution)
    if prepared.controlnet is None or reference.prepared:
        return image
    return annotators.make(image, reference.control, prepared.annotator)
