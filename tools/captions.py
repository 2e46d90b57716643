"""Captions of the rendered art, exact and bilingual.

One vocabulary for the pictures that ``mini`` learns from, for the sample set and for benchmarks:
``caption(attributes, "zh", rng)`` words the attributes that ``render_art.mjs`` wrote down.
"""

import random

from storyboard.vocabulary import COLORS, EXPRESSION, HAIR, LENGTH, PERSON, PROP, SCENE, STYLE

BLURRED = ("模糊，低质量", "blurry, low quality")
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
    """The phrases of one picture in order: style, person, expression, glasses, clothes, prop, background.

    With ``rng`` synonyms are chosen at random and each phrase is left out with probability ``drop``.
    """
    zh = language == "zh"
    word = lambda pair: pair[0 if zh else 1]
    choose = lambda pair: rng.choice(word(pair)) if rng else word(pair)[0]
    keep = lambda: rng is None or rng.random() >= drop
    who, length = word(PERSON[attributes["person"]]), word(LENGTH[attributes["hair_length"]])
    hair = word(HAIR[attributes["hair_color"]])
    said = []
    if keep():
        said.append(word(STYLE[attributes["style"]]))
    if zh:
        said.append((hair if keep() else "") + (length if keep() else "") + who)
    else:
        described = " ".join(w for w, kept in ((length, keep()), (hair, keep())) if kept)
        said.append(f"a {who} with {described} hair" if described else f"a {who}")
    if keep():
        said.append(choose(EXPRESSION[attributes["expression"]]))
    if attributes["glasses"] and keep():
        said.append("戴眼镜" if zh else "wearing glasses")
    if keep():
        color = word(COLORS[attributes["clothes_color"]])
        said.append(f"{color}衣服" if zh else f"{color} clothes")
    if attributes.get("prop") and keep():
        said.append(choose(PROP[attributes["prop"]]))
    if keep():
        place = attributes["background"]
        said.append(
            choose(SCENE[place])
            if place in SCENE
            else word(COLORS[place]) + ("背景" if zh else " background")
        )
    return said


def caption(
    attributes: dict, language: str, rng: random.Random | None = None, drop: float = 0.0
) -> str:
    """One caption. Without ``rng`` the plain, complete one; with it a random wording of the same facts."""
    zh = language == "zh"
    said = parts(attributes, language, rng, drop)
    if rng is None:
        return ("，" if zh else ", ").join(said)
    if rng.random() < 0.3:
        rng.shuffle(said)
    if rng.random() < 0.2:
        said.insert(rng.randint(0, len(said)), rng.choice(FILLER[0 if zh else 1]))
    if attributes.get("blurred"):
        said.insert(0, BLURRED[0 if zh else 1])
    return ("，" if zh and rng.random() < 0.9 else ", ").join(said)
