"""InvokeAI's three generations: ``Dream``, ``sd-metadata`` and ``invokeai_metadata``."""

import re
from collections.abc import Mapping

from storyboard.errors import SettingsError
from storyboard.other_tools import prompt_syntax
from storyboard.other_tools.infotext import (
    Infotext,
    mapping,
    parsed_json,
    plain_settings,
    text,
    whole_number,
)

TOOL = "InvokeAI"
# Its command line: https://github.com/invoke-ai/InvokeAI, v2.3.5, docs/features/CLI.md
OPTION = re.compile(r"(?<!\S)(--?[A-Za-z][\w-]{0,40})(?:[ =]([^\s-]\S{0,200}|-\d\S{0,200}))?")
OPTIONS = {
    "-s": "steps",
    "--steps": "steps",
    "-S": "seed",
    "--seed": "seed",
    "-W": "width",
    "--width": "width",
    "-H": "height",
    "--height": "height",
    "-C": "cfg_scale",
    "--cfg_scale": "cfg_scale",
    "-A": "sampler",
    "--sampler": "sampler",
}
NEGATIVE = re.compile(r"\[([^\[\]]*)\]")  # in a prompt of the first two generations
# compel's: cat++, (a cat)1.3, ("a", "b").blend(1, 1)
WEIGHTS = re.compile(r"[\w)][+-]{1,9}(?=[\s,)\]]|$)|\)\d|\)\.(?:blend|and|swap)\(")
EXTRAS = {
    "ipAdapters": "pictures to follow",
    "controlnets": "pictures to follow",
    "t2iAdapters": "pictures to follow",
    "loras": "LoRAs of other files",
    "clip_skip": "clip skip",
    "hrf_enabled": "a second pass",
    "regions": "prompts for regions",
    "postprocessing": "what was done to the finished picture",
}


def of_dream(content: str) -> Infotext:
    """A command line: the prompt in quotes, its negative part in square brackets, then options."""
    start, end = content.find('"'), content.rfind('"')
    if not 0 <= start < end:
        raise SettingsError("its Dream text has no prompt in quotes: InvokeAI writes it so.")
    settings: dict[str, object] = {}
    for match in OPTION.finditer(content, end + 1):
        settings[OPTIONS.get(match[1], match[1])] = match[2] or "yes"
    seed = whole_number(settings.pop("seed", None), "-S (InvokeAI's Dream)")
    return _made(*_parted(content[start + 1 : end]), seed, settings)


def of_sd_metadata(content: str) -> Infotext:
    """JSON of the second generation, its facts under ``image``."""
    whole = mapping(parsed_json(content, "sd-metadata"), "sd-metadata text")
    facts = mapping(whole.get("image"), "image (InvokeAI's sd-metadata)")
    prompts = facts.get("prompt")
    if isinstance(prompts, list):
        each = [mapping(part, "image.prompt (InvokeAI's sd-metadata)") for part in prompts]
        prompts = ", ".join(text(part.get("prompt"), "image.prompt.prompt") for part in each)
    prompt = text(prompts, "image.prompt (InvokeAI's sd-metadata)")
    seed = whole_number(facts.get("seed"), "image.seed (InvokeAI's sd-metadata)")
    return _made(*_parted(prompt), seed, plain_settings(facts, "prompt", "seed"))


def of_metadata(content: str) -> Infotext:
    """JSON since version 3."""
    facts = mapping(parsed_json(content, "invokeai_metadata"), "invokeai_metadata text")
    names = ("positive_prompt", "negative_prompt", "seed")
    prompt, negative = (text(facts.get(name), f"{name} (InvokeAI)") for name in names[:2])
    seed = whole_number(facts.get("seed"), "seed (InvokeAI's invokeai_metadata)")
    made = _made(prompt, negative, seed, plain_settings(facts, *names))
    styles = [
        name
        for name in ("positive_style_prompt", "negative_style_prompt")
        if facts.get(name) not in (None, "", facts.get(name.replace("_style", "")))
    ]
    notes = [f"{name} has other words, for SDXL's second text encoder" for name in styles]
    return Infotext(**{**vars(made), "notes": (*made.notes, *notes)})


def _parted(prompt: str) -> tuple[str, str]:
    """The prompt, and what stands in square brackets in it."""
    negative = ", ".join(match[1].strip() for match in NEGATIVE.finditer(prompt))
    return NEGATIVE.sub("", prompt).strip(), negative


def _made(prompt: str, negative: str, seed: int | None, settings: Mapping[str, object]) -> Infotext:
    notes = []
    if WEIGHTS.search(prompt) or WEIGHTS.search(negative):
        notes.append("InvokeAI's weights (cat++, (a cat)1.3) stand in the prompt as written")
    for name, what in EXTRAS.items():
        if settings.get(name) not in (None, False, 0):
            notes.append(f"InvokeAI added {what} ({name}), which is not part of a story")
    prompt, more = prompt_syntax.balanced(text(prompt, "prompt"))
    negative, further = prompt_syntax.balanced(text(negative, "negative prompt"))
    return Infotext(prompt, negative, seed, settings, TOOL, (*notes, *more, *further))
