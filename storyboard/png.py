"""What a picture says of itself: its record, A1111's ``parameters`` text, or other tools' texts."""

import json
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from storyboard.compat import pillow
from storyboard.errors import SettingsError
from storyboard.other_tools import reading, texts
from storyboard.other_tools.a1111 import NEGATIVE
from storyboard.other_tools.infotext import Infotext
from storyboard.records import PanelRecord

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
# What Pillow raises on damaged files
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,  # also of ~ and a name that is no user's
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def parameters(panel: PanelRecord) -> str:
    """The ``parameters`` text of A1111's web UI (modules/processing.py, create_infotext)."""
    facts = {
        "Steps": panel.steps,
        "Sampler": panel.sampler,
        "Schedule type": panel.schedule_type,
        "CFG scale": f"{panel.guidance_scale:g}",
        "Seed": panel.seed,
        "Size": f"{panel.width}x{panel.height}",
        "Model hash": (panel.base.fingerprint or "")[:10],
        "Model": panel.base.name,
        "RNG": "CPU",  # where the seed's noise is made; without it the web UI takes the card's
    }
    if panel.clip_skip and panel.clip_skip > 1:
        facts["Clip skip"] = panel.clip_skip
    if panel.base.zero_terminal_snr:
        facts["Noise Schedule"] = "Zero Terminal SNR"
    if panel.lora and panel.lora.tensors_digest:
        facts["Lora hashes"] = f"story: {panel.lora.tensors_digest[:12]}"

    lines = [panel.prompt]
    if panel.negative_prompt:
        lines.append(f"{NEGATIVE} {panel.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """``value`` in quotes where it has a comma, colon or new line (infotext_utils.quote)."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def info(panel: PanelRecord, text_chunks: Mapping[str, str] | None = None) -> PngInfo:
    """Text chunks for a panel: iTXt, where Chinese stands as it is.

    Args:
        text_chunks: More of them by name, in ASCII: tEXt, whose readers often take iTXt wrongly.
    """
    chunks = PngInfo()
    chunks.add_itxt("parameters", parameters(panel))
    record = json.dumps(panel.to_json(), ensure_ascii=False, sort_keys=True)
    chunks.add_itxt("storyboard", record)
    for name, text in (text_chunks or {}).items():
        chunks.add_text(name, text)
    return chunks


def read(path: Path) -> PanelRecord | Infotext:
    """What a picture says of itself: our own record, else what another tool wrote into it.

    Args:
        path: A PNG, JPEG, WebP or AVIF; its content decides, not its name.

    Raises:
        SettingsError: It is no such picture, names no prompt, or its record is damaged.
    """
    try:
        whole_path = path.expanduser()
        if not whole_path.is_file():  # a pipe would wait for ever
            raise SettingsError("there is no such file.")
        with pillow.reading(), Image.open(whole_path, formats=FORMATS) as image:
            image.load()  # chunks may follow the pixels
            found, size = texts.of(image), image.size
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    except DAMAGED as error:
        raise SettingsError(
            f"{path} is no whole PNG, JPEG, WebP or AVIF ({type(error).__name__}): give a picture "
            "as it was saved, no screenshot."
        ) from error

    if record := _record(path, found):
        return record
    try:
        return reading.read(found, size, path.stem)
    except SettingsError as error:
        joint = " " if str(error).startswith(reading.NOTHING) else ": "
        raise SettingsError(f"{path}{joint}{error}") from error


def _record(path: Path, found: Mapping[str, str]) -> PanelRecord | None:
    """Our own record; None where a chunk of its name is another program's, or there is none."""
    try:
        record = json.loads(found.get("storyboard", "null"))
        return PanelRecord.from_json(record) if isinstance(record, dict) else None
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"{path} holds a damaged record of its story ({error!s:.200}): give a picture as it "
            "was saved."
        ) from error
