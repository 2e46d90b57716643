"""Captions of the rendered art, exact and bilingual.

One vocabulary for the pictures that ``mini`` learns from, for the sample set and for benchmarks:
``caption(attributes, "zh", rng)`` words the attributes that ``render_art.mjs`` wrote down.
"""

import random

from storyboard.vocabulary import (
    COLORS,
    EXPRESSION,
    FACING,
    FRAMING,
    HAIR,
    LENGTH,
    PERSON,
    PROP,
    SCENE,
    STYLE,
)

# styles that the UNet sees beside those that prompts may name
STYLES = STYLE | {"peeps": ("线描", "line drawing")}
FROM_THE_SIDE = ("micah", "lorelei", "peeps")  # whose faces look to the right or to the left
BLURRED = ("模糊，低质量", "blurry, low quality")
SAID = 0.3  # how often the usual framing is named
# Words that say nothing about the picture: the model learns to draw on past what it does not know.
FILLER = (
    ["高质量", "杰作", "精致", "插画", "可爱", "好看", "细节丰富", "高清", "彩色", "漫画"],
    [
        "best quality",
        "masterpiece",
        "detailed",
        "illustration",
        "cute",
        "beautiful",
        "high resolution",
        "colorful",
        "comic",
    ],
)


def parts(
    attributes: dict, language: str, rng: random.Random | None = None, drop: float = 0.0
) -> list[str]:
    """Phrases in order: style, framing, person, expression, glasses, clothes, prop, background.

    With ``rng`` synonyms are chosen at random and each is left out with probability ``drop``.
    """
    zh = language == "zh"

    def word(pair):
        return pair[0 if zh else 1]

    def choose(pair) -> str:
        return rng.choice(word(pair)) if rng else word(pair)[0]

    def keep() -> bool:
        return rng is None or rng.random() >= drop

    who, length = word(PERSON[attributes["person"]]), word(LENGTH[attributes["hair_length"]])
    hair = word(HAIR[attributes["hair_color"]])
    phrases = []
    if keep():
        phrases.append(word(STYLES[attributes["style"]]))
    phrases += [choose(pair) for pair in _framing(attributes, rng)]
    if zh:
        phrases.append((hair if keep() else "") + (length if keep() else "") + who)
    else:
        described = " ".join(w for w, kept in ((length, keep()), (hair, keep())) if kept)
        phrases.append(f"a {who} with {described} hair" if described else f"a {who}")
    if keep():
        phrases.append(choose(EXPRESSION[attributes["expression"]]))
    if attributes["glasses"] and keep():
        phrases.append("戴眼镜" if zh else "wearing glasses")
    if attributes.get("clothes_color") and keep():
        color = word(COLORS[attributes["clothes_color"]])
        phrases.append(f"{color}衣服" if zh else f"{color} clothes")
    if attributes.get("prop") and keep():
        phrases.append(choose(PROP[attributes["prop"]]))
    if keep():
        background = attributes["background"]
        if background in SCENE:
            phrases.append(choose(SCENE[background]))
        else:
            phrases.append(word(COLORS[background]) + ("背景" if zh else " background"))
    return phrases


def _framing(attributes: dict, rng: random.Random | None) -> list[tuple[list[str], list[str]]]:
    """Words of how much of the figure is seen, and of where it looks.

    A half figure that looks to the right goes without saying, and is said at random alone. Anything
    else is always said: what a prompt leaves out is drawn as most pictures are.
    """
    said = []
    for name, words, usual in (("framing", FRAMING, "half"), ("facing", FACING, "right")):
        value = attributes.get(name)
        if value and (value != usual or (rng and rng.random() < SAID)):
            said.append(words[value])
    return said


def caption(
    attributes: dict, language: str, rng: random.Random | None = None, drop: float = 0.0
) -> str:
    """One caption: the plain, complete one, or with ``rng`` a random wording of the same facts."""
    zh = language == "zh"
    phrases = parts(attributes, language, rng, drop)
    if rng is None:
        return ("，" if zh else ", ").join(phrases)
    if rng.random() < 0.3:
        rng.shuffle(phrases)
    if rng.random() < 0.2:
        phrases.insert(rng.randint(0, len(phrases)), rng.choice(FILLER[0 if zh else 1]))
    if attributes.get("blurred"):
        phrases.insert(0, BLURRED[0 if zh else 1])
    return ("，" if zh and rng.random() < 0.9 else ", ").join(phrases)
