"""A picture that a panel follows (参考图): edges, depth, pose, segments, colours, or all of it."""

from dataclasses import dataclass
from pathlib import Path

from storyboard.errors import SettingsError, brief

CONTROLS = ("edges", "depth", "pose", "segmentation", "colour", "image")
HUB_ID = r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?"
OWN = "own"  # how records call a ControlNet that is a folder, without its path
DEFAULT_STRENGTHS = {"image": 0.5}  # of the others 1
MAX_STRENGTH = 2.0
MAX_IMAGE_STRENGTH = 0.95


@dataclass(frozen=True)
class Reference:
    """What a panel takes from another picture.

    Args:
        picture: Path of the picture; it is brought to the story's size, cut at the longer sides.
        control: What of it counts. ``"edges"``, ``"depth"``, ``"pose"``, ``"segmentation"`` and
            ``"colour"`` reach the UNet through a ControlNet (https://arxiv.org/abs/2302.05543), a
            pose of one person; ``"image"`` starts from the picture itself, with noise on it
            (image-to-image, https://arxiv.org/abs/2108.01073).
        strength: Weight of the ControlNet, 0 to 2; for ``"image"`` how much of the picture stays, 0
            to 0.95 (1 minus what others call denoising strength). None is 1, for ``"image"`` 0.5.
        end: Share of the steps after which the ControlNet ends, 0 to 1.
        prepared: The picture is the map already (white edges on black, a skeleton, ...), as a
            preprocessor would make it.
        weights: ControlNet other than the base's own: a folder, or the id of a model at the hubs.
        annotator: Model that finds depth, pose or segments, other than the usual one: a folder, or
            the id of a model at the hubs.

    Raises:
        SettingsError: An unknown control or a value out of range.
    """

    picture: str | Path
    control: str = "edges"
    strength: float | None = None
    end: float = 1.0
    prepared: bool = False
    weights: str | Path | None = None
    annotator: str | Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.picture, (str, Path)) or not str(self.picture).strip():
            raise SettingsError(
                f"Reference(picture={brief(self.picture)}) must be the path of a picture."
            )
        if "\0" in str(self.picture):
            raise SettingsError(
                f"Reference(picture={brief(self.picture)}) holds a character that no path can have."
            )
        if not isinstance(self.control, str) or self.control not in CONTROLS:
            raise SettingsError(
                f"Reference(control={brief(self.control)}) must be one of "
                f"{', '.join(map(repr, CONTROLS))}."
            )
        for name in ("weights", "annotator"):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))
            elif not (value is None or (isinstance(value, str) and value.strip())):
                raise SettingsError(
                    f"Reference({name}={brief(value)}) must be a folder or the id of a model."
                )
        if self.strength is None:
            object.__setattr__(self, "strength", DEFAULT_STRENGTHS.get(self.control, 1.0))

        is_image = self.control == "image"
        limits = {"strength": MAX_IMAGE_STRENGTH if is_image else MAX_STRENGTH, "end": 1.0}
        for name, high in limits.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 <= value <= high:
                raise SettingsError(
                    f"Reference({name}={brief(value)}) must be a number from 0 to {high:g} for "
                    f"control={self.control!r}."
                )
        if is_image and (self.end != 1 or self.prepared or self.weights):
            raise SettingsError(
                'Reference(control="image") knows no end, prepared or weights, which belong to a '
                "ControlNet: leave them out."
            )
