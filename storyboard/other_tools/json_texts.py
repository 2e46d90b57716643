"""Texts in JSON: SwarmUI, Fooocus, NovelAI and others, each in a field of its own."""

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

NOVELAI_WEIGHTS = ("{", "[", "::")


def of_parameters(content: str) -> Infotext:
    """The ``parameters`` text, where it is JSON.

    Raises:
        SettingsError: It is damaged, or of a tool that is not known.
    """
    facts = mapping(parsed_json(content, "parameters"), "parameters text")
    if "sui_image_params" in facts:
        return _swarmui(mapping(facts["sui_image_params"], "sui_image_params"))
    if "Prompt" in facts and "prompt" not in facts:
        names = ("Prompt", "Negative", "seed")
        return _named("RuinedFooocus", facts, names, "parameters")
    if "prompt" in facts:
        return _fooocus(facts)
    shown = ", ".join(map(repr, list(facts)[:4])) or "nothing"
    raise SettingsError(
        f"its parameters text is JSON of a tool that is not known ({shown:.100}): it has no prompt."
    )


def _named(
    tool: str, facts: Mapping[str, object], names: tuple[str, str, str], chunk: str
) -> Infotext:
    """The prompt, negative prompt and seed that stand under ``names``."""
    prompt, notes = _read(facts.get(names[0]), f"{names[0]} ({tool}'s {chunk})")
    negative, more = _read(facts.get(names[1]), f"{names[1]} ({tool}'s {chunk})")
    return Infotext(
        prompt=prompt,
        negative_prompt=negative,
        seed=whole_number(facts.get(names[2]), f"{names[2]} ({tool}'s {chunk})"),
        settings=plain_settings(facts, *names),
        tool=tool,
        notes=tuple(dict.fromkeys([*notes, *more])),
    )


def _read(value: object, name: str) -> tuple[str, list[str]]:
    prompt, notes = prompt_syntax.without_tags(text(value, name))
    prompt, more = prompt_syntax.balanced(prompt)
    return prompt, notes + more


def _swarmui(facts: Mapping[str, object]) -> Infotext:
    """SwarmUI (https://github.com/mcmonkeyprojects/SwarmUI, docs/Image Metadata Format.md)."""
    made = _named("SwarmUI", facts, ("prompt", "negativeprompt", "seed"), "sui_image_params")
    return _with_notes(made, facts, {"loras": "LoRAs of other files", "initimage": "a picture"})


def _fooocus(facts: Mapping[str, object]) -> Infotext:
    """Fooocus (https://github.com/lllyasviel/Fooocus, modules/meta_parser.py).

    The prompt is what its user wrote; styles and its own expansion add words.
    """
    made = _named("Fooocus", facts, ("prompt", "negative_prompt", "seed"), "parameters")
    words = {
        "styles": "words of styles",
        "prompt_expansion": "words of its own",
        "loras": "LoRAs of other files",
        "refiner_model": "a second model",
    }
    return _with_notes(made, {key: facts.get(key) for key in facts if facts[key] != "None"}, words)


def _with_notes(made: Infotext, facts: Mapping[str, object], words: Mapping[str, str]) -> Infotext:
    notes = [
        f"{made.tool} added {what} ({key} in its settings), which are not part of a story"
        for key, what in words.items()
        if facts.get(key) not in (None, "", [], "[]", {})
    ]
    return Infotext(**{**vars(made), "notes": (*made.notes, *notes)})


def of_novelai(texts: Mapping[str, str]) -> Infotext:
    """NovelAI: the prompt in ``Description``, all else in ``Comment``.

    A prompt of version 4 has a base caption and one for each character.
    """
    facts = mapping(parsed_json(texts["Comment"], "Comment"), "Comment text")
    prompt, characters = _captions(facts, "v4_prompt")
    negative, negatives = _captions(facts, "v4_negative_prompt")
    prompt = prompt or text(texts.get("Description"), "Description")
    prompt = prompt or text(facts.get("prompt"), "prompt")
    negative = negative or text(facts.get("uc"), "uc (NovelAI's Comment)")
    notes = []
    if characters or negatives:
        notes.append("NovelAI drew each character from a prompt of its own, here they are one")
    if any(sign in prompt + negative for sign in NOVELAI_WEIGHTS):
        notes.append("NovelAI's weights ({cat}, [cat], 1.2::cat::) stand in the prompt as written")
    prompt, more = prompt_syntax.balanced(", ".join([prompt, *characters]))
    negative, further = prompt_syntax.balanced(", ".join(filter(None, [negative, *negatives])))
    taken = ("uc", "seed", "prompt", "v4_prompt", "v4_negative_prompt")
    return Infotext(
        prompt=prompt,
        negative_prompt=negative,
        seed=whole_number(facts.get("seed"), "seed (NovelAI's Comment)"),
        settings=plain_settings(facts, *taken),
        tool="NovelAI",
        notes=tuple(dict.fromkeys([*notes, *more, *further])),
    )


def _captions(facts: Mapping[str, object], key: str) -> tuple[str, list[str]]:
    """The base caption and those of characters."""
    caption = mapping(mapping(facts.get(key), key).get("caption"), f"{key}.caption")
    characters = caption.get("char_captions")
    if not isinstance(characters, list):
        characters = []
    captions = [
        text(mapping(each, f"{key}.char_captions").get("char_caption"), f"{key}.char_captions")
        for each in characters
    ]
    return text(caption.get("base_caption"), f"{key}.base_caption"), [c for c in captions if c]


def of_comment(content: str) -> Infotext | None:
    """A ``Comment`` in JSON with a prompt, as Fooocus-MRE and early Fooocus wrote it."""
    facts = mapping(parsed_json(content, "Comment"), "Comment text")
    if "prompt" not in facts:
        return None
    names = ("prompt", "negative_prompt", "seed")
    return _named("A tool that writes Comment", facts, names, "Comment")


def of_tensor_art(content: str) -> Infotext:
    """TensorArt's ``generation_data``, which ends in a zero byte."""
    facts = mapping(parsed_json(content.rstrip("\0"), "generation_data"), "generation_data text")
    names = ("prompt", "negativePrompt", "seed")
    return _named("TensorArt", facts, names, "generation_data")


def of_draw_things(content: str) -> Infotext:
    """Draw Things: JSON in EXIF's or XMP's user comment, the prompt under ``c``."""
    facts = mapping(parsed_json(content, "user comment"), "user comment")
    return _named("Draw Things", facts, ("c", "uc", "seed"), "user comment")


def of_chunks(texts: Mapping[str, str]) -> Infotext:
    """Each fact in a text of its own, as Easy Diffusion and kohya's gen_img.py write them."""
    negative = next((key for key in texts if key.lower().startswith("negative")), "negative_prompt")
    prompt = next(key for key in texts if key.lower() == "prompt")
    seed = next((key for key in texts if key.lower() == "seed"), "seed")
    return _named("A tool that writes single facts", texts, (prompt, negative, seed), "texts")
