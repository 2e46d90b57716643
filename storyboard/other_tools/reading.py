"""Which tool's texts a picture holds, and what they say."""

import re
from collections.abc import Mapping

from storyboard.errors import SettingsError
from storyboard.other_tools import a1111, comfyui, invokeai, json_texts, texts
from storyboard.other_tools.infotext import (
    MAX_TEXT,
    Infotext,
    bounded,
    cleaned,
    is_json,
    parsed_json,
)

XMP = ("XML:com.adobe.xmp", "xmp")
INVOKEAI = {
    "invokeai_metadata": invokeai.of_metadata,
    "sd-metadata": invokeai.of_sd_metadata,
    "Dream": invokeai.of_dream,
}
MIDJOURNEY = re.compile(r"\sJob ID: [0-9a-f-]{36}")
MIDJOURNEY_OPTION = re.compile(r"\s--?[a-z]+(?: [\w:.,]+)?")
NOTHING = (
    "does not say how it was made: no text in it holds a prompt, and many programs and sites "
    "remove such texts; give the picture as it was saved."
)


def read(found: Mapping[str, str], size: tuple[int, int], stem: str) -> Infotext:
    """What the texts of a picture say; the surest source first where a picture has several.

    Args:
        found: Texts by name, as ``texts.of`` gives them.
        size: Of the picture, and ``stem`` of its file, for graphs that save several pictures.

    Raises:
        SettingsError: None holds a prompt, or it is damaged; the sentence goes on after the
            picture's name.
    """
    content = {name: text for name, text in found.items() if text.strip(" \t\r\n\0")}
    for name, text in content.items():
        bounded(text, f"text {name!r}", MAX_TEXT)
    made = _read(content, size, stem)
    if made is None:
        names = ", ".join(sorted(content))
        raise SettingsError(NOTHING + (f" It holds {names:.100}." if names else ""))
    if not made.prompt.strip():
        raise SettingsError(f"{made.tool} wrote no prompt into it: it was made without words.")
    return made


def _read(content: Mapping[str, str], size: tuple[int, int], stem: str) -> Infotext | None:
    for name in ("stealth", texts.USER_COMMENT, *XMP):
        if name in content and "parameters" not in content:
            content = {**_of_comment(name, content[name]), **content}
    if "draw_things" in content:
        return json_texts.of_draw_things(content["draw_things"])
    if "parameters" in content:
        text = content["parameters"]
        return json_texts.of_parameters(text) if is_json(text) else a1111.parsed(text)
    for name, reader in INVOKEAI.items():
        if name in content:
            return reader(content[name])
    if "generation_data" in content:
        return json_texts.of_tensor_art(content["generation_data"])
    if "Comment" in content and is_json(content["Comment"]):
        made = _of_json_comment(content)
        if made:
            return made
    if "prompt" in content and is_json(content["prompt"]):
        return comfyui.read(content["prompt"], size, stem)
    if any(name.lower() == "prompt" for name in content):
        return json_texts.of_chunks(content)
    if "workflow" in content:
        raise SettingsError(
            "its ComfyUI text has the canvas alone (workflow) and not the graph that was run "
            "(prompt): open it in ComfyUI, run it, and give what that saves."
        )
    return _of_midjourney(content)


def _of_comment(name: str, comment: str) -> dict[str, str]:
    """The texts that EXIF's or XMP's comment, or the pixels, stand for."""
    comment = texts.of_xmp(comment) if name in XMP else comment.strip("\0 ")
    if not is_json(comment):
        return {"parameters": comment} if a1111.is_infotext(comment) else {}
    facts = parsed_json(comment, name)
    if not isinstance(facts, dict):
        return {}
    if "c" in facts and "uc" in facts:
        return {"draw_things": comment}
    if "Comment" in facts or "Description" in facts:  # NovelAI hides all its texts
        return {str(key): value for key, value in facts.items() if isinstance(value, str)}
    if any(isinstance(value, dict) and "class_type" in value for value in facts.values()):
        return {"prompt": comment}
    return {"parameters": comment}


def _of_json_comment(content: Mapping[str, str]) -> Infotext | None:
    is_novelai = "NovelAI" in content.get("Software", "") or "Description" in content
    return (
        json_texts.of_novelai(content) if is_novelai else json_texts.of_comment(content["Comment"])
    )


def _of_midjourney(content: Mapping[str, str]) -> Infotext | None:
    """Midjourney's ``Description``: the prompt, its options, and the number of its job."""
    text = cleaned(content.get("Description", ""))
    job = MIDJOURNEY.search(text)
    if not job:
        return None
    text = text[: job.start()]
    start = text.find(" --")
    prompt, options = (text, "") if start < 0 else (text[:start], text[start:].strip())
    seed = re.search(r"--seed (\d{1,20})\b", options)
    notes = ("Midjourney's own model drew it, which no base here is",)
    return Infotext(
        prompt, "", int(seed[1]) if seed else None, {"options": options}, "Midjourney", notes
    )
