"""A story bundle read back, with nothing of it trusted."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from storyboard.compat import pillow
from storyboard.errors import BundleError, StoryboardError
from storyboard.exporting.archive import DAMAGED, LIMITS, PICTURE_LIMIT, opening, read_file
from storyboard.exporting.bundle import FORMAT
from storyboard.records import PanelRecord, RecordError
from storyboard.reference import HUB_ID, OWN, Reference
from storyboard.settings import Settings
from storyboard.story import MAX_PANELS, Panel

FORMATS = (1, FORMAT)
# What one call of render() draws all panels with
SAME = (
    "base",
    "lora",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "schedule_type",
    "precision",
    "text_encoder_bits",
    "clip_skip",
    "versions",
)
# of those, what tells nothing of the picture and an earlier version left out
NOT_SAME = {"base": {"layout"}, "lora": {"tensors_digest"}}


@dataclass(frozen=True)
class OpenedBundle:
    """What a bundle holds.

    Attributes:
        panels: Checked records; all are drawn.
        lora: Content of ``lora.safetensors``.
        pictures: Name -> content of the pictures that the records name.
    """

    panels: list[PanelRecord]
    lora: bytes
    pictures: dict[str, bytes]


def read(path: Path) -> OpenedBundle:
    """Read a bundle of any format.

    Raises:
        BundleError: It is no whole bundle, or holds names or sizes that a bundle never has.
    """
    with opening(path) as (zipped, files):
        story = json.loads(read_file(path, zipped, files, "story.json", LIMITS["story.json"]))
        panels = _checked_panels(path, story)
        pictures = {
            name: read_file(path, zipped, files, name, PICTURE_LIMIT)
            for name in sorted({name for panel in panels for name in _files(panel)})
        }
        name = "lora.safetensors"
        lora = read_file(path, zipped, files, name, LIMITS[name])
    drawn = {panel.as_drawn.file_name: (panel.width, panel.height) for panel in panels}
    for name, picture in pictures.items():
        _check_picture(path, name, picture, drawn.get(name))
    return OpenedBundle(panels, lora, pictures)


def _check_picture(path: Path, name: str, picture: bytes, size: tuple[int, int] | None) -> None:
    """Raise BundleError unless ``picture`` is a whole PNG, of ``size`` where one is given."""
    try:
        with pillow.reading(), Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
            image.load()
    except (*DAMAGED, SyntaxError, Image.DecompressionBombError) as error:
        raise BundleError(
            f"{name} of {path} is no whole PNG ({type(error).__name__}): get the bundle again."
        ) from error
    if size and image.size != size:
        raise BundleError(
            f"{name} of {path} has {image.width} x {image.height} pixels where its record says "
            f"{size[0]} x {size[1]}: get the bundle again."
        )


def _files(panel: PanelRecord) -> list[str]:
    """Names of the pictures that a panel's record names."""
    named = (panel.drawn, panel.reference, panel.character)
    return [each.file for each in named if each and each.file]


def _checked_panels(path: Path, story: object) -> list[PanelRecord]:
    """The panels of ``story.json``; BundleError unless they are as ``bundle`` writes them."""
    try:
        panels = _panels(story)
        for number, panel in enumerate(panels, 1):
            _check_panel(panel, number, panels[0])
        _check_character(panels)
    except (RecordError, ValueError, StoryboardError) as error:
        raise BundleError(
            f"story.json of {path} is not as bundle() writes it ({_in_short(error)}): make the "
            "bundle again."
        ) from error
    return panels


def _in_short(error: Exception) -> str:
    """What ``error`` says, in a line: it may quote a prompt."""
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:200]} … {text[-200:]}"


def _panels(story: object) -> list[PanelRecord]:
    """The records of ``story.json``; those of format 1 lie in the form of version 1."""
    if not isinstance(story, dict):
        raise ValueError("it is no JSON object")
    format_ = story.get("format")
    if type(format_) is not int or format_ not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise ValueError(f"format {format_!r:.20}, this Storyboard reads {known}")

    contents = story.get("panels")
    if not isinstance(contents, list) or not 1 <= len(contents) <= MAX_PANELS:
        raise ValueError(f"panels must be a list of 1 to {MAX_PANELS}")
    if format_ == 1:
        contents = _with_settings(contents, story.get("settings"))

    panels = []
    for number, content in enumerate(contents, 1):
        try:
            panels.append(PanelRecord.from_json(content))
        except RecordError as error:
            raise ValueError(f"panel {number}: {error}") from error
    return panels


def _with_settings(contents: list, settings: object) -> list:
    """Panels of format 1 with what stood in ``settings``."""
    if not isinstance(settings, dict):
        raise ValueError("settings must be an object")
    names = ("text_encoder_bits", "text_encoder_on_cpu")
    common = {name: settings[name] for name in names if settings.get(name) is not None}
    return [content | common if isinstance(content, dict) else content for content in contents]


def _check_panel(panel: PanelRecord, number: int, first: PanelRecord) -> None:
    """Raise ValueError or SettingsError unless ``panel`` is as ``render`` draws it.

    A record on its own may leave out what is not known; one in a bundle may not.
    """
    Panel(panel.prompt, panel.negative_prompt, panel.seed)
    facts, expected = (
        each.model_dump(include=set(SAME), exclude=NOT_SAME) for each in (panel, first)
    )
    if different := [name for name in SAME if facts[name] != expected[name]]:
        raise ValueError(f"panel {number} has another {different[0]} than panel 1")
    if panel.width != panel.height:
        raise ValueError(f"panel {number} is no square")
    known = {
        "drawn": panel.drawn,
        "base.fingerprint": panel.base.fingerprint,
        "lora.digest": panel.lora and panel.lora.digest,
        "precision": panel.precision,
    }
    if missing := [name for name, value in known.items() if value is None]:
        raise ValueError(f"panel {number} lacks {missing[0]}")
    Settings(lora_strength=panel.lora.strength)
    if panel.drawn.file != f"panel-{number}.png":
        raise ValueError(f"the file of panel {number}")
    if panel.reference:
        _check_reference(panel, number)


def _check_reference(panel: PanelRecord, number: int) -> None:
    """Raise ValueError or SettingsError unless the reference is as ``render`` records it."""
    reference = panel.reference
    Reference("picture", reference.control, reference.strength, reference.end)
    is_named = reference.control == "image" or (
        reference.controlnet is not None
        and (reference.model in (None, OWN) or re.fullmatch(HUB_ID, reference.model))
    )
    if reference.file != f"panel-{number}-reference.png" or not is_named:
        raise ValueError(f"the reference of panel {number}")


def _check_character(panels: Sequence[PanelRecord]) -> None:
    """Raise ValueError unless all panels, panel 1 aside, keep one character, or none does.

    Panel 1 has it as well where a picture was given.
    """
    characters = [panel.character for panel in panels if panel.character]
    if not characters:
        return
    first = characters[0]
    same = {(each.method, each.strength, each.file) for each in characters}
    expected = panels if first.file else panels[1:]
    extra_rows = int(first.method == "shared")  # panel 1's, in every batch
    right = all(panel.character and panel.drawn.row >= extra_rows for panel in expected)
    if len(same) > 1 or not right or len(expected) != len(characters):
        raise ValueError("the character")
