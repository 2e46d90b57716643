"""A story bundle read back, with nothing of it trusted."""

import json
import re
import stat
import zipfile
from pathlib import Path, PurePosixPath

from storyboard.errors import BundleError, StoryboardError
from storyboard.exporting.bundle import FORMAT
from storyboard.models.run import CHARACTER_STRENGTH
from storyboard.reference import HUB_ID, OWN, Reference
from storyboard.story import MAX_PANELS, Panel

LIMITS = {"story.json": 8 * 2**20, "lora.safetensors": 4 * 2**30}  # bytes that are read at most
PICTURE_LIMIT = 128 * 2**20
FILES_LIMIT = 256
SAME = (
    "base",
    "base_fingerprint",
    "lora",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "schedule_type",
    "precision",
    "versions",
)
PRECISIONS = ("fp32", "bf16", "fp16")
MOST_TOKENS = (
    77 * 128
)  # prompt and negative prompt of up to 11 chunks each, repeated to their common length
HEROINE = "heroine.png"


def read(path: Path) -> tuple[dict, bytes, dict[str, bytes]]:
    """Of a bundle its ``story.json``, checked, its LoRA, and the pictures that ``story.json`` names, by name.

    Raises:
        BundleError: It is no whole bundle, or holds names or sizes that a bundle never has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = entries(path, archive)
            story = _story(
                path, json.loads(_content(path, archive, found, "story.json", LIMITS["story.json"]))
            )
            names = {
                said["file"]
                for panel in story["panels"]
                for said in (panel, panel.get("reference", {}), panel.get("heroine", {}))
                if "file" in said
            }
            pictures = {
                name: _content(path, archive, found, name, PICTURE_LIMIT) for name in sorted(names)
            }
            return (
                story,
                _content(path, archive, found, "lora.safetensors", LIMITS["lora.safetensors"]),
                pictures,
            )
    except (
        OSError,
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        ValueError,
        RecursionError,
    ) as error:
        raise BundleError(
            f"{path} is no whole story bundle ({type(error).__name__}: {error}): get it again."
        ) from error


def entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What a zip holds, by name; BundleError where a name points outside its folder."""
    found = archive.infolist()
    for entry in found:
        name = PurePosixPath(entry.orig_filename)
        if (
            name.is_absolute()
            or ".." in name.parts
            or re.search(r"[\\:\0]", entry.orig_filename)
            or stat.S_ISLNK(entry.external_attr >> 16)
        ):
            raise BundleError(
                f"{path} holds {entry.orig_filename!r}, which points outside its folder: do not open it, it was not made by bundle()."
            )
    if (
        len(found) > FILES_LIMIT
        or len({entry.filename for entry in found}) != len(found)
        or any(entry.flag_bits & 1 for entry in found)
    ):
        raise BundleError(
            f"{path} holds more than {FILES_LIMIT} files, one of them twice, or encrypted ones: it was not made by bundle()."
        )
    return {entry.filename: entry for entry in found}


def _content(
    path: Path, archive: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo], name: str, limit: int
) -> bytes:
    if name not in found:
        raise BundleError(f"{path} lacks {name}: it is no whole story bundle, get it again.")
    if found[name].file_size > limit:  # zipfile reads no more than what the entry announces
        raise BundleError(
            f"{path} holds a {name} of {found[name].file_size / 1e6:,.0f} MB, more than the {limit / 1e6:,.0f} MB that are read: it was not made by bundle()."
        )
    return archive.read(found[name])


def _story(path: Path, story: object) -> dict:
    """``story`` with every field that is used of the type it must have."""
    try:
        if story["format"] != FORMAT:
            raise ValueError(f"format {story['format']!r:.20}, this Storyboard reads {FORMAT}")
        panels = story["panels"]
        if not 1 <= len(panels) <= MAX_PANELS:
            raise ValueError(f"{len(panels)} panels")
        for place, panel in enumerate(panels, 1):
            Panel(panel["prompt"], panel["negative_prompt"], panel["seed"])
            same = [panel[key] == panels[0][key] for key in SAME]
            same.append(
                panel.get("lora_text_encoder") is panels[0].get("lora_text_encoder") in (None, True)
            )
            numbers = all(
                type(panel[key]) is int
                for key in ("width", "height", "batch", "row", "text_length", "seed")
            )
            if (
                not all(same)
                or not numbers
                or panel["file"] != f"panel-{place}.png"
                or not 0 <= panel["row"] < panel["batch"] <= MAX_PANELS
                or panel["width"] != panel["height"]
                or not 0 < panel["text_length"] <= MOST_TOKENS
            ):
                raise ValueError(f"panel {place}")
            if "reference" in panel:
                _check_reference(panel["reference"], place)
            kinds = {"vae_tiling": bool, "base": str, "guidance_end": (int, float)}
            hashes = [
                re.fullmatch(r"[0-9a-f]{64}", panel[key]) for key in ("base_fingerprint", "lora")
            ] + [re.fullmatch(r"[\w.+-]{1,40}", each) for each in panel["versions"].values()]
            known = (
                panel["sampler"] == "DPM++ 2M"
                and panel["schedule_type"] in ("Karras", "Simple")
                and panel["precision"] in PRECISIONS
            )
            known = known and panel.get("clip_skip") == panels[0].get("clip_skip")
            if (
                not all(isinstance(panel[key], kind) for key, kind in kinds.items())
                or not all(hashes)
                or not known
            ):
                raise ValueError(f"panel {place}")
        _check_heroine(panels)
        if not isinstance(story["settings"], dict):
            raise ValueError("settings")
    except (KeyError, TypeError, ValueError, AttributeError, StoryboardError) as error:
        raise BundleError(
            f"story.json of {path} is not as bundle() writes it ({type(error).__name__}: {error}): make the bundle again."
        ) from error
    return story


def _check_reference(said: dict, place: int) -> None:
    """Raise ValueError or SettingsError unless ``said`` is what rendering/control.py tells of a reference."""
    image = said["control"] == "image"
    Reference("picture", said["control"], said["strength"], 1.0 if image else said["end"])
    named = image or (
        re.fullmatch(r"[0-9a-f]{64}", said["controlnet"])
        and (said["model"] in (None, OWN) or re.fullmatch(HUB_ID, said["model"]))
    )
    if said["file"] != f"panel-{place}-reference.png" or not named:
        raise ValueError(f"the reference of panel {place}")


def _check_heroine(panels: list[dict]) -> None:
    """Raise ValueError unless the panels have one heroine as rendering/heroine.py tells of it, or none."""
    found = [
        (said["by"], said["strength"], said.get("file", ""))
        for said in (panel["heroine"] for panel in panels if "heroine" in panel)
    ]
    if not found:
        return
    by, strength, file = found[0]
    right = [
        "heroine" in panel and panel["row"] >= (by == "shared")
        for panel in panels
        if file or panel is not panels[0]
    ]
    if (
        len(set(found)) > 1
        or by not in CHARACTER_STRENGTH
        or type(strength) not in (int, float)
        or file not in ("", HEROINE)
        or not all(right)
        or len(right) != len(found)
    ):
        raise ValueError("the heroine")
