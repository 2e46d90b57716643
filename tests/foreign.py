"""A small set in a hand that ``mini`` has never seen: one character, hatched hair, large eyes."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

EXPRESSIONS = {"微笑": (20, 160), "惊讶": (0, 360), "难过": (200, 340), "大笑": (0, 180)}  # degrees
CLOTHES = {"蓝色": "#3b62c9", "绿色": "#3f9d63", "红色": "#c23b3b", "黑色": "#26242b"}
SIDE = 256


def write(folder: Path, pictures: int = 16) -> Path:
    """``pictures`` with their captions beside them, as kohya's scripts read them."""
    folder.mkdir(parents=True)
    for index in range(pictures):
        expression = list(EXPRESSIONS)[index % len(EXPRESSIONS)]
        clothes = list(CLOTHES)[index // len(EXPRESSIONS) % len(CLOTHES)]
        draw(index, expression, clothes).save(folder / f"{index}.png")
        caption = f"手绘，棕色长发女孩，{expression}，{clothes}衣服，白色背景"
        (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


def draw(seed: int, expression: str, clothes: str) -> Image.Image:
    """The character, moved a little by ``seed``."""
    rng = random.Random(seed)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    x, y = SIDE // 2 + rng.randint(-14, 14), 112 + rng.randint(-8, 8)

    _hatched(pen, rng, (x - 84, 190, x + 84, 262), CLOTHES[clothes])
    for _ in range(260):  # strands of hair, behind the face and beside it
        side = rng.choice((-1, 1)) * rng.uniform(10, 74)
        shade = rng.choice(("#8a4b1e", "#b5671f", "#6d2f5a", "#d98a3a"))
        top = (x + side * 0.35, y - 78 + abs(side) * 0.3)
        pen.line((top, (x + side, y), (x + side * 1.1, y + rng.uniform(60, 120))), shade, 2)
    pen.ellipse((x - 46, y - 50, x + 46, y + 62), "#fbe3d3", "#5b3a2e", 2)

    for eye in (x - 22, x + 22):
        pen.ellipse((eye - 13, y - 8, eye + 13, y + 22), "white", "#2b2238", 2)
        pen.ellipse((eye - 9, y - 4, eye + 9, y + 20), "#3d6fc4", "#1d2554", 2)
        pen.ellipse((eye - 4, y + 4, eye + 4, y + 14), "#141126")
        pen.ellipse((eye - 7, y - 2, eye - 1, y + 5), "white")
    pen.arc((x - 12, y + 30, x + 12, y + 46), *EXPRESSIONS[expression], "#a3303a", 3)
    for _ in range(40):  # fringe
        start = x + rng.uniform(-44, 44)
        pen.line((start, y - 54, start + rng.uniform(-10, 10), y - 14), "#9c571f", 2)
    return image


def _hatched(
    pen: ImageDraw.ImageDraw, rng: random.Random, box: tuple[int, int, int, int], color: str
) -> None:
    left, top, right, bottom = box
    for _ in range(220):
        start, height = rng.uniform(left, right), rng.uniform(top, bottom)
        pen.line((start, height, start + 26, height - 18), color, 2)
