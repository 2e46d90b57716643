"""What a picture says of itself, in the PNG: its record, and A1111's ``parameters`` text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo, iTXt

from storyboard.errors import SettingsError
from storyboard.records import PanelRecord

# one of A1111's last line; a value with commas is quoted, or JSON
SETTING = re.compile(
    r'([A-Za-z][\w /()-]*): ("(?:[^"\\]|\\.)*"|\{[^{}]*\}|\[[^\[\]]*\]|[^,]*)(?:, |,?\s*$)'
)
MIN_SETTINGS = 3  # that make a line A1111's, as its own reader has it
NEGATIVE = "Negative prompt:"


@dataclass(frozen=True)
class Infotext:
    """What A1111's ``parameters`` text says.

    Attributes:
        seed: None where the text names none.
        settings: All else, by its name there.
    """

    prompt: str
    negative_prompt: str
    seed: int | None
    settings: Mapping[str, str]


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
    """What a PNG says of itself: our own record, else A1111's text, in tEXt or iTXt.

    Raises:
        SettingsError: It is no PNG, names no prompt, or its record is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # chunks may follow the pixels
            text = dict(image.text) if isinstance(image, PngImageFile) else {}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SettingsError(
            f"{path} is no whole PNG ({type(error).__name__}): give a picture as it was saved, "
            "no screenshot or JPEG."
        ) from error

    try:
        record = json.loads(text.get("storyboard", "null"))
        if isinstance(record, dict):
            return PanelRecord.from_json(record)
    except ValueError as error:
        raise SettingsError(
            f"{path} holds a damaged record of its story ({error}): give a picture as it was saved."
        ) from error

    if not text.get("parameters", "").strip():
        raise SettingsError(
            f"{path} does not say how it was made: its text chunks (parameters) are missing, which "
            "many programs and sites remove; give the picture as it was saved."
        )
    return parsed(_utf8(text["parameters"]))


def parsed(text: str) -> Infotext:
    """A1111's ``parameters`` text: prompt lines, negative prompt lines, one line of settings."""
    lines = text.strip().splitlines()
    pairs = SETTING.findall(lines[-1])
    if len(pairs) >= MIN_SETTINGS and not lines[-1].startswith(NEGATIVE):
        lines = lines[:-1]
    else:
        pairs = []
    settings = {name.strip(): _unquoted(value) for name, value in pairs}

    starts = (number for number, line in enumerate(lines) if line.startswith(NEGATIVE))
    start = next(starts, len(lines))
    seed = settings.pop("Seed", "")
    return Infotext(
        prompt="\n".join(lines[:start]).strip(),
        negative_prompt="\n".join(lines[start:]).removeprefix(NEGATIVE).strip(),
        seed=int(seed) if seed.isascii() and seed.isdigit() else None,
        settings=settings,
    )


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text.strip()
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _utf8(text: str) -> str:
    """``text`` of a tEXt chunk, which is Latin-1 by the standard, where a tool wrote UTF-8."""
    if isinstance(text, iTXt):
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
