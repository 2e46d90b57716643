"""Text of every kind over a picture, with the mask of its letters, for the text detector.

``letter(image, fonts, rng)`` puts lines, paragraphs, signatures, tiled and translucent marks, boxes
and tables of controls over a picture; what is not text stays out of the mask.
"""

import math
import random
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CJK = "NotoSansCJK"  # what the name of a font with Chinese characters contains
CHINESE_SHARE = 0.3  # of texts
VISIBLE = 16  # levels of any channel by which letters differ from what was there
CHINESE = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着"
    "去之过家学对可她里后小么心多天而能好都然没日于起还发成事"
    "只作当想看文无开手十用主行方又如前所本见经头面"
)
ENGLISH = """
    the of and to in is you that it he was for on are as with his they at be this have from
    or one had by word but not what all were we when your can said there use an each which
    she do how their if will up other about out many then them these so some her would make
    like him into time has look two more write go see number no way could people my than
    first water been call who oil its now find long down day did get come made may part over
    new sound take only Preview Sample Copyright Studio Gallery Artist Login Share Follow
    Comments Settings Download
    """


def words(rng: random.Random, chinese: bool, most: int = 5) -> str:
    """A few words, numbers, an address or a date."""
    if chinese:
        return "".join(rng.choices(CHINESE, k=rng.randint(2, 12)))
    kind = rng.random()
    if kind < 0.12:
        mark = rng.choice("-/.")
        return f"{rng.randint(1999, 2030)}{mark}{rng.randint(1, 12):02d}{mark}{rng.randint(1, 31)}"
    if kind < 0.2:
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    if kind < 0.32:
        name = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 11)))
        return rng.choice(("www.{}.com", "@{}", "© {}", "https://{}.net/{}", "#{}")).format(
            name, name
        )
    text = " ".join(rng.choices(ENGLISH.split(), k=rng.randint(1, most)))
    return rng.choice((text, text.title(), text.upper(), text + rng.choice("!?.,")))


class Letterer:
    """Puts text over one picture.

    Args:
        image: RGB, of any size.
        fonts: Paths of TrueType fonts; those with Chinese characters have ``CJK`` in their name.
    """

    def __init__(self, image: Image.Image, fonts: Sequence[Path], rng: random.Random) -> None:
        self.image = image.convert("RGBA")
        self.mask = Image.new("L", image.size)
        self.fonts, self.rng = fonts, rng
        self.width, self.height = image.size

    def font(self, size: float) -> tuple[ImageFont.FreeTypeFont, bool]:
        """A font of that size, and whether it has Chinese characters."""
        chinese = [path for path in self.fonts if CJK in path.name]
        is_chinese = bool(chinese) and self.rng.random() < CHINESE_SHARE
        path = self.rng.choice(chinese if is_chinese else self.fonts)
        return ImageFont.truetype(path, max(7, round(size))), is_chinese

    def color(self) -> tuple[int, int, int]:
        rng = self.rng
        gray = rng.choice((0, 20, 60, 128, 200, 235, 255))
        return rng.choice(((gray,) * 3, (gray,) * 3, tuple(rng.randrange(256) for _ in range(3))))

    def lay(self, sheet: Image.Image, letters: Image.Image, alpha: float) -> None:
        """Blend ``sheet`` (RGBA) over the picture; ``letters`` (L) are its text."""
        sheet.putalpha(sheet.getchannel("A").point(lambda value: round(value * alpha)))
        before, self.image = self.image, Image.alpha_composite(self.image, sheet)
        changed = np.asarray(self.image, np.int16) - np.asarray(before, np.int16)
        visible = np.abs(changed).max(2) >= VISIBLE
        self.mask = Image.fromarray(
            np.maximum(np.asarray(self.mask), np.asarray(letters) * visible)
        )

    def write(
        self,
        pen: ImageDraw.ImageDraw,
        masks: ImageDraw.ImageDraw,
        at,
        text: str,
        font,
        ink,
        **options,
    ) -> None:
        edge = {}
        if self.rng.random() < 0.3:
            fill = (0, 0, 0, 255) if sum(ink[:3]) > 380 else (255, 255, 255, 255)
            edge = {"stroke_width": 1, "stroke_fill": fill}
        pen.text(at, text, (*ink, 255), font, **options, **edge)
        masks.text(at, text, 255, font, **options)

    def lines(self) -> None:
        """One to six lines of one font anywhere, straight or turned."""
        rng = self.rng
        size = math.exp(rng.uniform(math.log(8), math.log(44)))
        font, chinese = self.font(size)
        sheet, letters = Image.new("RGBA", self.image.size), Image.new("L", self.image.size)
        pen, masks = ImageDraw.Draw(sheet), ImageDraw.Draw(letters)
        left, top, ink = (
            rng.uniform(-0.1, 0.7) * self.width,
            rng.uniform(0, 0.95) * self.height,
            self.color(),
        )
        count = rng.choice((1, 1, 1, 2, 4, 6))
        if rng.random() < 0.3:  # on a box, as in dialogues and subtitles
            box = (left - 4, top - 4, left + self.width * 0.8, top + count * size * 1.4 + 4)
            pen.rounded_rectangle(box, 5, (*self.color(), rng.choice((160, 220, 255))))
        for row in range(count):
            at = (left, top + row * size * rng.uniform(1.2, 1.5))
            self.write(pen, masks, at, words(rng, chinese), font, ink)
        if rng.random() < 0.25:
            angle = rng.uniform(-45, 45)
            sheet, letters = (each.rotate(angle, Image.BICUBIC) for each in (sheet, letters))
        self.lay(sheet, letters, rng.choice((1, 1, 0.85, 0.6, 0.45)))

    def tiles(self) -> None:
        """The same translucent words all over, at an angle, or once across."""
        rng = self.rng
        side = 2 * max(self.width, self.height)
        sheet, letters = Image.new("RGBA", (side, side)), Image.new("L", (side, side))
        pen, masks = ImageDraw.Draw(sheet), ImageDraw.Draw(letters)
        size = rng.uniform(12, 34)
        font, chinese = self.font(size)
        text, ink = words(rng, chinese, 2), self.color()
        step = pen.textlength(text, font) + rng.uniform(15, 80)
        for row in range(int(side / (size * 2.5)) + 1):
            for column in range(int(side / step) + 1):
                at = (column * step - (row % 2) * step / 2, row * size * 2.5)
                pen.text(at, text, (*ink, 255), font)
                masks.text(at, text, 255, font)
        angle, left, top = rng.uniform(-45, 45), (side - self.width) // 2, (side - self.height) // 2
        box = (left, top, left + self.width, top + self.height)
        sheet, letters = (each.rotate(angle, Image.BICUBIC).crop(box) for each in (sheet, letters))
        self.lay(sheet, letters, rng.uniform(0.25, 0.7))

    def controls(self) -> None:
        """Bars with buttons and short words, as programs have them."""
        rng = self.rng
        sheet, letters = Image.new("RGBA", self.image.size), Image.new("L", self.image.size)
        pen, masks = ImageDraw.Draw(sheet), ImageDraw.Draw(letters)
        height = rng.uniform(14, 60)
        top = rng.choice((0.0, self.height - height))
        pen.rectangle((0, top, self.width, top + height), (*self.color(), 255))
        font, chinese = self.font(rng.uniform(9, 14))
        left, ink = rng.uniform(2, 40), self.color()
        while left < self.width:
            if rng.random() < 0.4:
                box = (left, top + 3, left + rng.uniform(8, 26), top + rng.uniform(10, height))
                pen.rounded_rectangle(box, 3, (*self.color(), 255))
                left = box[2] + rng.uniform(4, 20)
                continue
            text = words(rng, chinese, 2)
            self.write(pen, masks, (left, top + rng.uniform(0, height / 2)), text, font, ink)
            left += pen.textlength(text, font) + rng.uniform(8, 60)
        self.lay(sheet, letters, 1)

    def shapes(self) -> None:
        """No text: rows of small boxes, dots, strokes, flowers and tufts, a little like letters."""
        rng = self.rng
        sheet = Image.new("RGBA", self.image.size)
        pen = ImageDraw.Draw(sheet)
        ink, size, step = (*self.color(), 255), rng.uniform(3, 14), rng.uniform(6, 30)
        left, top = rng.uniform(0, 0.6) * self.width, rng.uniform(0, 0.8) * self.height
        kinds = ("boxes", "frames", "dots", "strokes", "lines", "flowers", "tufts")
        kind, lean = rng.choice(kinds), rng.uniform(-9, 9)
        for row in range(rng.randint(1, 6)):
            for column in range(rng.randint(2, 12)):
                x, y = left + column * step, top + row * step * 1.3
                if kind in ("dots", "flowers", "tufts"):
                    x, y = rng.uniform(0, self.width), rng.uniform(0, self.height)
                if kind == "boxes":
                    pen.rectangle((x, y, x + size, y + size * 1.3), ink)
                elif kind == "frames":
                    pen.rectangle((x, y, x + size, y + size * 1.3), None, ink, 1)
                elif kind == "dots":
                    pen.ellipse((x, y, x + size / 2, y + size / 2), ink)
                elif kind == "strokes":
                    pen.line((x, y, x + lean, y + 2 * size), ink, rng.choice((1, 2, 3)))
                elif kind == "lines":
                    pen.line((x, y, x + step * 0.7, y + lean / 4), ink, 2)
                elif kind == "flowers":
                    self._flower(pen, x, y, size)
                else:
                    self._tuft(pen, x, y, 2 * size)
        self.lay(sheet, Image.new("L", self.image.size), rng.choice((1, 0.6)))

    def _flower(self, pen: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
        """Outlined petals around a middle."""
        fill, radius = (*self.color(), 255), size * 0.6
        for petal in range(6):
            angle = 2 * math.pi * petal / 5
            reach = 0 if petal == 5 else size * 0.8
            middle = (x + reach * math.cos(angle), y + reach * math.sin(angle))
            box = [each - radius for each in middle] + [each + radius for each in middle]
            pen.ellipse(box, fill, (20, 20, 26, 255), 1)

    def _tuft(self, pen: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
        """Strokes of hair that end in points."""
        rng, ink = self.rng, (*self.color(), 255)
        angle = rng.uniform(0, 2 * math.pi)
        for _ in range(rng.randint(2, 5)):
            angle += rng.uniform(-0.5, 0.5)
            tip = (x + size * math.cos(angle), y + size * math.sin(angle))
            width = rng.uniform(1, 4)
            x += rng.uniform(-size, size) / 3
            pen.polygon([(x, y), tip, (x + width, y + width)], ink)


def letter(
    image: Image.Image, fonts: Sequence[Path], rng: random.Random
) -> tuple[Image.Image, Image.Image]:
    """The picture with text, in six of ten cases, and the mask of its letters (L, 0 or 255)."""
    letterer = Letterer(image, fonts, rng)
    if rng.random() < 0.5:
        letterer.shapes()
    if rng.random() < 0.6:
        for put in rng.choices(
            (letterer.lines, letterer.tiles, letterer.controls), (6, 2, 2), k=rng.choice((1, 1, 2))
        ):
            put()
    return letterer.image.convert("RGB"), letterer.mask
