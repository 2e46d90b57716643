"""What a picture says of itself, in the PNG: A1111's ``parameters`` text, our JSON, and the graph that ComfyUI opens."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo, iTXt

from storyboard.errors import SettingsError

SETTING = re.compile(
    r'([A-Za-z][\w /()-]*): ("(?:[^"\\]|\\.)*"|\{[^{}]*\}|\[[^\[\]]*\]|[^,]*)(?:, |,?\s*$)'
)  # one of A1111's last line; a value with commas is quoted, or JSON
LEAST = 3  # settings that make a line A1111's, as its own reader has it
NEGATIVE = "Negative prompt:"


def parameters(panel: dict) -> str:
    """The ``parameters`` text as AUTOMATIC1111's web UI writes it (modules/processing.py, create_infotext)."""
    facts = {
        "Steps": panel["steps"],
        "Sampler": panel["sampler"],
        "Schedule type": panel["schedule_type"],
        "CFG scale": f"{panel['guidance_scale']:g}",
        "Seed": panel["seed"],
        "Size": f"{panel['width']}x{panel['height']}",
        "Model hash": panel["base_fingerprint"][:10],
        "Model": panel["base"],
        "RNG": "CPU",  # where the seed's noise is made; without it the web UI takes the card's
    }
    if panel.get("clip_skip", 1) > 1:
        facts["Clip skip"] = panel["clip_skip"]
    if panel.get("zero_terminal_snr"):
        facts["Noise Schedule"] = "Zero Terminal SNR"
    if "lora_tensors" in panel:
        facts["Lora hashes"] = f"story: {panel['lora_tensors'][:12]}"
    lines = [panel["prompt"]]
    if panel["negative_prompt"]:
        lines.append(f"Negative prompt: {panel['negative_prompt']}")
    return "\n".join(
        [*lines, ", ".join(f"{key}: {_quoted(str(value))}" for key, value in facts.items())]
    )


def _quoted(value: str) -> str:
    """``value`` as A1111's text holds it, in quotes where it has a comma, colon or new line (infotext_utils.quote)."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def info(panel: dict, further: Mapping[str, str] | None = None) -> PngInfo:
    """Text chunks for a panel; iTXt where Chinese stands as it is.

    Args:
        further: More chunks by name, in ASCII: tEXt, whose readers often take iTXt wrongly.
    """
    chunks = PngInfo()
    chunks.add_itxt("parameters", parameters(panel))
    chunks.add_itxt("storyboard", json.dumps(panel, ensure_ascii=False, sort_keys=True))
    for name, text in (further or {}).items():
        chunks.add_text(name, text)
    return chunks


def read(path: Path) -> dict:
    """What a PNG says of itself: ``prompt``, ``negative_prompt``, ``seed`` (None where it names none) and ``settings``, further ones by their names there.

    Our own JSON where there is one, else A1111's ``parameters`` text, in tEXt or iTXt.

    Raises:
        SettingsError: It is no PNG, or names no prompt.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # chunks may follow the pixels
            text = dict(image.text)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SettingsError(
            f"{path} is no whole PNG ({type(error).__name__}): give a picture as it was saved, no screenshot or JPEG."
        ) from error
    try:
        ours = json.loads(text.get("storyboard", "null"))
        if isinstance(ours, dict):
            said = {key: ours.pop(key) for key in ("prompt", "negative_prompt", "seed")}
            return said | {"settings": ours}
    except (KeyError, ValueError) as error:
        raise SettingsError(
            f"{path} holds damaged data of its story ({type(error).__name__}): give a picture as it was saved."
        ) from error
    if not text.get("parameters", "").strip():
        raise SettingsError(
            f"{path} does not say how it was made: its text chunks (parameters) are missing, which many programs and sites remove; give the picture as it was saved."
        )
    return parsed(_utf8(text["parameters"]))


def parsed(text: str) -> dict:
    """A1111's ``parameters`` text as ``read`` gives it: prompt lines, negative prompt lines, one line of settings."""
    lines = text.strip().splitlines()
    found = SETTING.findall(lines[-1])
    if len(found) >= LEAST and not lines[-1].startswith(NEGATIVE):
        lines = lines[:-1]
    else:
        found = []
    settings = {key.strip(): _value(value) for key, value in found}
    start = next(
        (place for place, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines)
    )
    seed = settings.pop("Seed", "")
    return {
        "prompt": "\n".join(lines[:start]).strip(),
        "negative_prompt": "\n".join(lines[start:]).removeprefix(NEGATIVE).strip(),
        "seed": int(seed) if seed.isascii() and seed.isdigit() else None,
        "settings": settings,
    }


def _value(text: str) -> str:
    if not text.startswith('"'):
        return text.strip()
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _utf8(text: str) -> str:
    """A tEXt chunk is Latin-1 by the standard; tools that write UTF-8 into it are read as they meant."""
    if isinstance(text, iTXt):
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
