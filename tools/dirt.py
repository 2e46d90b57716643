"""What is wrong with pictures in sets that people bring: each kind made of a clean picture.

Every function takes a square picture of 512 pixels in RGB and a source of random numbers, and
returns the picture as such a set would hold it. Text is set in Pillow's built-in font.
"""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

SIDES = (256, 256, 288, 320, 384)
# made up, so that no mark of somebody's is used
MARKS = ("PREVIEW", "SAMPLE", "inkbox.example", "DO NOT COPY", "@mira.draws", "pixelshelf")
SIGNED = (
    "@mira.draws",
    "inkbox.example",
    "(c) Studio Halm",
    "art by Noru",
    "pixelshelf.example/p/2071",
)
LINES = (
    "I waited all day for you.",
    "It is quiet here, isn't it?",
    "Do you remember that song?",
    "We should go before it rains.",
    "Nobody told me about this!",
)
COMMENTS = ("so cute!!", "love the colours", "which brush is this?", "first", "saved it", "10/10")


def font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(8, round(size)))


def scaled(image: Image.Image, rng: random.Random) -> Image.Image:
    side = rng.choice(SIDES)
    return image.resize((side, side), Image.LANCZOS)


# ---- watermarks


def watermark(image: Image.Image, rng: random.Random) -> Image.Image:
    """A mark over the whole picture, across it, in a corner, or a camera's date."""
    image = scaled(image, rng)
    put = rng.choice((_tiled, _across, _signed, _dated))
    layer = Image.new("RGBA", image.size)
    put(layer, rng)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _tiled(layer: Image.Image, rng: random.Random) -> None:
    """Translucent words in rows, at an angle."""
    side = layer.width
    words, letters = rng.choice(MARKS), font(side / rng.uniform(11, 17))
    ink = (*rng.choice(((255, 255, 255), (110, 110, 110))), rng.randint(90, 150))
    sheet = Image.new("RGBA", (2 * side, 2 * side))
    pen = ImageDraw.Draw(sheet)
    width = pen.textlength(words, letters) + side / 8
    for row in range(14):
        for column in range(int(2 * side / width) + 1):
            at = (column * width - (row % 2) * width / 2, row * side / 7)
            pen.text(at, words, ink, letters)
    turned = sheet.rotate(rng.uniform(15, 40), Image.BICUBIC)
    layer.paste(turned.crop((side // 2, side // 2, side // 2 + side, side // 2 + side)))


def _across(layer: Image.Image, rng: random.Random) -> None:
    """One large translucent word over the middle."""
    side = layer.width
    words = rng.choice(MARKS)
    size = side / 4
    while ImageDraw.Draw(layer).textlength(words, font(size)) > 0.9 * side:
        size *= 0.9
    sheet = Image.new("RGBA", layer.size)
    ink = (*rng.choice(((255, 255, 255), (60, 60, 60))), rng.randint(100, 160))
    middle = (side / 2, side * rng.uniform(0.4, 0.7))
    ImageDraw.Draw(sheet).text(middle, words, ink, font(size), anchor="mm")
    layer.paste(sheet.rotate(rng.choice((0, 0, 20, 30)), Image.BICUBIC))


def _signed(layer: Image.Image, rng: random.Random) -> None:
    """A signature or an address in a corner."""
    side = layer.width
    left, top = rng.random() < 0.5, rng.random() < 0.4
    at = (side * (0.03 if left else 0.97), side * (0.03 if top else 0.97))
    anchor = ("l" if left else "r") + ("a" if top else "d")
    dark = rng.random() < 0.5
    ink, edge = ((20, 20, 26), (255, 255, 255)) if dark else ((255, 255, 255), (20, 20, 26))
    ImageDraw.Draw(layer).text(
        at,
        rng.choice(SIGNED),
        (*ink, rng.randint(200, 255)),
        font(side / rng.uniform(12, 18)),
        anchor=anchor,
        stroke_width=1,
        stroke_fill=(*edge, 200),
    )


def _dated(layer: Image.Image, rng: random.Random) -> None:
    """The date that a camera burns in."""
    side = layer.width
    words = f"{rng.randint(2003, 2024)}/{rng.randint(1, 12):02d}/{rng.randint(1, 28):02d}"
    if rng.random() < 0.5:
        words += f" {rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    at = (side * 0.95, side * 0.95)
    ImageDraw.Draw(layer).text(at, words, (255, 150, 40, 255), font(side / 13), anchor="rd")


# ---- screenshots


def screenshot(image: Image.Image, rng: random.Random) -> Image.Image:
    """A telephone, a browser, a video player or a game around the picture."""
    return rng.choice((_telephone, _browser, _player, _game))(image, rng)


def _telephone(image: Image.Image, rng: random.Random) -> Image.Image:
    width = rng.choice((270, 300, 324))
    height = round(width * rng.uniform(1.5, 1.9))
    dark = rng.random() < 0.5
    paper, ink = ((24, 24, 28), (235, 235, 240)) if dark else ((255, 255, 255), (30, 30, 34))
    screen = Image.new("RGB", (width, height), paper)
    pen, unit = ImageDraw.Draw(screen), width / 24
    clock = f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    pen.text((unit, unit / 2), clock, ink, font(unit * 1.1))
    pen.rounded_rectangle((width - 3 * unit, unit * 0.7, width - unit, unit * 1.6), 2, None, ink)
    pen.text((width - 4 * unit, unit / 2), "5G", ink, font(unit), anchor="ra")
    pen.ellipse((unit, 2.6 * unit, 3.4 * unit, 5 * unit), (200, 120, 150))
    pen.text((4 * unit, 2.8 * unit), "mira.draws", ink, font(1.3 * unit))
    pen.text((4 * unit, 4.1 * unit), "2 hours ago", (140, 140, 150), font(unit))
    top = round(6 * unit)
    screen.paste(image.resize((width, width), Image.LANCZOS), (0, top))
    line = top + width + unit / 2
    likes = f"{rng.randint(12, 999)} likes    {rng.randint(2, 80)} comments"
    pen.text((unit, line), likes, ink, font(1.1 * unit))
    for number in range(6):
        line += 1.8 * unit
        if line + 2 * unit > height:
            break
        words = f"user{rng.randint(10, 99)}  {rng.choice(COMMENTS)}" if number else "new drawing!"
        pen.text((unit, line), words, ink, font(1.1 * unit))
    return screen


def _browser(image: Image.Image, rng: random.Random) -> Image.Image:
    side = rng.choice((288, 320, 384))
    screen = Image.new("RGB", (round(side * 1.3), side), (255, 255, 255))
    pen, unit, width = ImageDraw.Draw(screen), side / 24, screen.width
    pen.rectangle((0, 0, width, 3.6 * unit), (222, 225, 230))
    pen.rounded_rectangle((unit, 0.4 * unit, 9 * unit, 1.8 * unit), 3, (255, 255, 255))
    pen.text((1.5 * unit, 0.6 * unit), "Image search", (50, 50, 60), font(unit))
    pen.rounded_rectangle((4 * unit, 2 * unit, width - unit, 3.4 * unit), 4, (255, 255, 255))
    address = f"https://inkbox.example/view?id={rng.randint(10**4, 10**6)}"
    pen.text((4.6 * unit, 2.2 * unit), address, (70, 70, 80), font(unit))
    shown = round(side - 5 * unit)
    screen.paste(image.resize((shown, shown), Image.LANCZOS), (round(unit), round(4.3 * unit)))
    left, line = shown + 2 * unit, 5 * unit
    for words in ("Portrait", "512 x 512", "Visit page", "Related:", *rng.sample(COMMENTS, 4)):
        pen.text((left, line), words, rng.choice(((30, 90, 200), (60, 60, 70))), font(1.05 * unit))
        line += 1.9 * unit
    return screen


def _player(image: Image.Image, rng: random.Random) -> Image.Image:
    image = scaled(image, rng)
    pen, side = ImageDraw.Draw(image), image.width
    unit = side / 24
    pen.rectangle((0, side - 3 * unit, side, side), (18, 18, 20))
    pen.rectangle((unit, side - 2.5 * unit, side - unit, side - 2.2 * unit), (120, 120, 120))
    done = unit + (side - 2 * unit) * rng.uniform(0.1, 0.9)
    pen.rectangle((unit, side - 2.5 * unit, done, side - 2.2 * unit), (230, 40, 40))
    pen.polygon(
        [(unit, side - 1.8 * unit), (unit, side - 0.4 * unit), (2.2 * unit, side - 1.1 * unit)],
        (255, 255, 255),
    )
    times = f"{rng.randint(0, 9)}:{rng.randint(0, 59):02d} / 23:40"
    pen.text((3 * unit, side - 1.9 * unit), times, (255, 255, 255), font(1.1 * unit))
    pen.text(
        (side / 2, side - 3.6 * unit),
        rng.choice(LINES),
        (255, 255, 255),
        font(1.4 * unit),
        anchor="md",
        stroke_width=1,
        stroke_fill=(0, 0, 0),
    )
    return image


def _game(image: Image.Image, rng: random.Random) -> Image.Image:
    image = scaled(image, rng)
    side, unit = image.width, image.width / 24
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    box = (unit, side - 7 * unit, side - unit, side - unit)
    pen.rounded_rectangle(box, unit, (20, 24, 60, 215), (240, 240, 250, 255), 2)
    name = rng.choice(("Mira", "Noru", "Hal"))
    pen.text((2 * unit, side - 6.6 * unit), name, (255, 220, 120, 255), font(1.4 * unit))
    first, second = rng.sample(LINES, 2)
    pen.text((2 * unit, side - 4.7 * unit), first, (255, 255, 255, 255), font(1.3 * unit))
    pen.text((2 * unit, side - 3 * unit), second, (255, 255, 255, 255), font(1.3 * unit))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


# ---- too little to see


def blurred(image: Image.Image, rng: random.Random) -> Image.Image:
    """Out of focus, or moved while it was taken."""
    image = scaled(image, rng)
    amount = image.width / 256 * rng.uniform(2.5, 5)
    if rng.random() < 0.7:
        return image.filter(ImageFilter.GaussianBlur(amount))
    steps = range(round(3 * amount))
    moved = [np.roll(np.asarray(image, np.float32), step, 1) for step in steps]
    return Image.fromarray(np.mean(moved, 0).round().astype(np.uint8))


def blown_up(image: Image.Image, rng: random.Random) -> Image.Image:
    """A thumbnail of 64 to 96 pixels, as JPEG has left it, at the size of the others."""
    small = image.resize((rng.choice((64, 72, 80, 96)),) * 2, Image.LANCZOS)
    side = rng.choice(SIDES)
    return small.resize((side, side), rng.choice((Image.BILINEAR, Image.BICUBIC, Image.LANCZOS)))


def mostly_empty(image: Image.Image, rng: random.Random) -> Image.Image:
    """A blank page, a gradient, or a figure of a few pixels on plain ground."""
    side = rng.choice(SIDES)
    ground = rng.choice(((255, 255, 255), (247, 244, 236), (182, 227, 244), (30, 30, 36)))
    empty = Image.new("RGB", (side, side), ground)
    kind = rng.choice(("blank", "gradient", "small", "small"))
    if kind == "gradient":
        ramp = np.linspace(0.75, 1, side)[:, None, None] * np.asarray(ground)
        return Image.fromarray(np.broadcast_to(ramp, (side, side, 3)).astype(np.uint8))
    if kind == "small":
        figure = round(side * rng.uniform(0.1, 0.2))
        at = (rng.randrange(side - figure), rng.randrange(side - figure))
        empty.paste(image.resize((figure, figure), Image.LANCZOS), at)
    return empty


def copied(image: Image.Image, rng: random.Random) -> Image.Image:
    """The same picture from another place: other size, light and colour."""
    image = ImageEnhance.Brightness(scaled(image, rng)).enhance(rng.uniform(0.96, 1.04))
    return ImageEnhance.Color(image).enhance(rng.uniform(0.92, 1.08))


KINDS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "other_style": scaled,
    "wrong_caption": scaled,
    "watermark": watermark,
    "screenshot": screenshot,
    "blurred": blurred,
    "blown_up": blown_up,
    "mostly_empty": mostly_empty,
    "near_duplicate": copied,
}
