"""The story as one page to print: A4, the pictures with their prompts as captions."""

import io
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DPI = 300
PAGE = (round(297 / 25.4 * DPI), round(210 / 25.4 * DPI))  # A4, landscape, pixels
MARGIN, GAP = 120, 48
CAPTION = 0.34  # a caption's height as a share of its picture's side
SIZES = range(44, 11, -2)  # of a caption's letters, pixels; the largest that fits is taken
SIMPLIFIED = 2  # the face of the collection in which Chinese characters have their mainland forms
EPOCH = time.gmtime(315532800)  # 1 January 1980: files repeat


def font(size: int) -> ImageFont.FreeTypeFont:
    """Noto Sans CJK in regular weight: letters become pixels here, so that no viewer needs a Chinese font."""
    import manimgx_fonts_cjk

    face = ImageFont.truetype(
        Path(manimgx_fonts_cjk.__file__).with_name("NotoSansCJK-VF.otf.ttc"), size, index=SIMPLIFIED
    )
    face.set_variation_by_axes([400])
    return face


def draw(pictures: Sequence[Path], captions: Sequence[str], title: str) -> Image.Image:
    """The page, RGB, A4 in landscape at 300 dpi; as many columns as make the pictures largest."""
    page = Image.new("RGB", PAGE, "white")
    pen = ImageDraw.Draw(page)
    top = MARGIN
    if title:
        pen.text((MARGIN, MARGIN), title, "black", font(60))
        top += 110
    width, height = PAGE[0] - 2 * MARGIN, PAGE[1] - top - MARGIN
    side_of = lambda columns: int(
        min(
            (width - GAP * (columns - 1)) / columns,
            height / -(-len(pictures) // columns) / (1 + CAPTION),
        )
    )
    columns = max(range(1, len(pictures) + 1), key=side_of)
    side, pitch = side_of(columns), height // -(-len(pictures) // columns)
    room, left = int(side * CAPTION) - 24, (PAGE[0] - columns * side - (columns - 1) * GAP) // 2
    for place, (path, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = left + place % columns * (side + GAP), top + place // columns * pitch
        with Image.open(path) as image:
            picture = image.convert("RGB")
        scale = side / max(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
        page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        text, face = fitted(f"{place + 1}  {caption}", side, room)
        pen.multiline_text((x, y + side + 12), text, "black", face, spacing=face.size // 4)
    return page


def fitted(text: str, width: int, height: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """``text`` in lines of at most ``width`` pixels and the largest font that needs no more than ``height``; what is too long ends in an ellipsis."""
    for size in SIZES:
        face = font(size)
        lines, allowed = wrapped(text, face, width), max(1, height * 4 // (5 * size + size))
        if len(lines) <= allowed:
            return "\n".join(lines), face
    lines[allowed - 1] = lines[allowed - 1][:-1] + "…"
    return "\n".join(lines[:allowed]), face


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than ``width``: broken at the last space or Chinese character that fits; a comma or full stop begins no line.

    Signs that the font lacks, such as emoji, are left out.
    """
    lone = face.font_variant(
        layout_engine=ImageFont.Layout.BASIC
    )  # Raqm gives joiners and variation selectors, which stand in emoji, a look of their own
    lines, line, missing = [], "", bytes(lone.getmask("\U0010ffff"))
    for sign in " ".join(
        "".join(
            sign for sign in text if sign.isspace() or bytes(lone.getmask(sign)) != missing
        ).split()
    ):
        if line and face.getlength(line + sign) > width and sign not in "，。、；：！？,.;:!? ":
            cut = len(line)
            while (
                cut
                and sign.isascii()
                and sign.isalnum()
                and line[cut - 1].isascii()
                and line[cut - 1] != " "
            ):
                cut -= 1
            cut = cut or len(line)
            lines.append(line[:cut].rstrip())
            line = line[cut:]
        line += sign
    return [*lines, line]


def pdf(page: Image.Image) -> bytes:
    """``page`` as a PDF of one page, the same bytes every time."""
    content = io.BytesIO()
    page.save(
        content,
        format="PDF",
        resolution=DPI,
        quality=93,
        creationDate=EPOCH,
        modDate=EPOCH,
        title="Storyboard",
    )
    return content.getvalue()
