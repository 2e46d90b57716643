"""The ``parameters`` text of A1111's web UI, which Forge, SD.Next and others write too."""

import json
import re
from collections.abc import Iterator

from storyboard.other_tools import prompt_syntax
from storyboard.other_tools.infotext import Infotext, bounded, cleaned, whole_number

NEGATIVE = "Negative prompt:"
MAX_INFOTEXT = 1_000_000  # characters
MIN_SETTINGS = 3  # that make a line A1111's, as its own reader has it
MAX_FAILURES = 100  # values of a line that begin as JSON and are none
NAME = re.compile(r"[A-Za-z][\w /()-]{0,99}")  # of a setting
FIRST_SETTING = re.compile(r"Steps: \d+,")  # A1111 begins its last line so
TEMPLATES = ("Template:", "Negative Template:")  # sd-dynamic-prompts adds them behind that line
# Settings that make another picture than the prompt alone, by what their names begin with
NOT_HONOURED = {
    "Hires": "hires fix, a second pass",
    "Denoising strength": "a second pass, or a picture to start from",
    "ControlNet": "a picture to follow",
    "ADetailer": "details drawn again",
    "Clip skip": "a setting of the whole run",
    "Refiner": "a second model",
    "TI hashes": "embeddings, whose names stay plain words",
    "Variation seed": "a second seed",
    "RP ": "prompts for regions",
    "Mask blur": "inpainting",
}


def parsed(content: str) -> Infotext:
    """A1111's ``parameters`` text: prompt lines, negative prompt lines, one line of settings.

    Raises:
        SettingsError: The seed is no number.
    """
    lines = cleaned(bounded(content, "parameters text", MAX_INFOTEXT)).splitlines()
    index, settings = _settings(lines)
    further = lines[index + 1 :]
    lines = lines[:index]

    starts = (number for number, line in enumerate(lines) if line.startswith(NEGATIVE))
    start = next(starts, len(lines))
    seed = whole_number(settings.pop("Seed", None), "Seed")
    steps = whole_number(settings.get("Steps"), "Steps")
    prompt, notes = _prompt("\n".join(lines[:start]), "prompt", steps)
    written = "\n".join(lines[start:]).removeprefix(NEGATIVE)
    negative, more = _prompt(written, "negative prompt", steps)
    return Infotext(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        settings=settings | _templates(further),
        notes=tuple(dict.fromkeys([*notes, *more, *_not_honoured(settings)])),
    )


def _prompt(written: str, name: str, steps: int | None) -> tuple[str, list[str]]:
    return prompt_syntax.of_a1111(bounded(written.strip(), name), steps)


def is_infotext(content: str) -> bool:
    """Whether ``content`` has what only this kind of text has: cameras write comments as well."""
    lines = content.splitlines()
    return any(line.startswith(NEGATIVE) for line in lines) or bool(_settings(lines)[1])


def _settings(lines: list[str]) -> tuple[int, dict[str, str]]:
    """The number of the line of settings, and what it says; the number of lines for none."""
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        is_last = number == len(lines) - 1
        if line.startswith(NEGATIVE) or not (is_last or FIRST_SETTING.match(line)):
            continue
        settings = dict(pairs(line))
        if len(settings) >= MIN_SETTINGS:
            return number, settings
    return len(lines), {}


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """Names and values of a line of settings; a value with commas is quoted, or JSON."""
    decoder, position = json.JSONDecoder(), 0
    budget = len(line)  # characters that are read as JSON in vain
    failures = 0
    while (colon := line.find(": ", position)) >= 0:
        name = line[max(position, line.rfind(",", position, colon) + 1) : colon].strip()
        position = start = colon + 2
        value = None
        if line[start : start + 1] in ('"', "{", "[") and budget > 0 and failures < MAX_FAILURES:
            try:
                value, position = decoder.raw_decode(line, start)
            except (ValueError, RecursionError) as error:
                budget -= getattr(error, "pos", len(line)) - start
                failures += 1
            else:
                value = value if isinstance(value, str) else line[start:position]
        if value is None:
            comma = line.find(",", start)
            position = comma if comma >= 0 else len(line)
            value = line[start:position].strip()
        if NAME.fullmatch(name):
            yield name, value


def _templates(lines: list[str]) -> dict[str, str]:
    """What sd-dynamic-prompts adds: the templates that the prompts were made from."""
    parts: dict[str, list[str]] = {}
    current = "Further lines"
    for line in lines:
        named = next((name for name in TEMPLATES if line.startswith(name)), "")
        current = named.rstrip(":") or current
        parts.setdefault(current, []).append(line.removeprefix(named).strip())
    return {name: "\n".join(part) for name, part in parts.items()}


def _not_honoured(settings: dict[str, str]) -> list[str]:
    notes = []
    for prefix, words in NOT_HONOURED.items():
        name = next((each for each in settings if each.startswith(prefix)), None)
        if name:
            notes.append(f"{name!r} of its settings ({words}) is not part of a story")
    return notes
