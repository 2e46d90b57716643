"""The story as one page to print: A4, the pictures with their prompts as captions."""

import io
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from storyboard import images

DPI = 300
PAGE = (round(297 / 25.4 * DPI), round(210 / 25.4 * DPI))  # A4, landscape, pixels
MARGIN, GAP = 120, 48
CAPTION = 0.34  # a caption's height as a share of its picture's side
CAPTION_SIGNS = 20_000  # of a prompt that are looked at: more than fit a page at the smallest size
SIZES = range(44, 11, -2)  # of a caption's letters, pixels; the largest that fits is taken
TITLE_SIZE, TITLE_HEIGHT = 60, 110  # pixels
SIMPLIFIED = 2  # the face of the collection in which Chinese characters have their mainland forms
NO_LINE_START = "，。、；：！？,.;:!? "
MOST_HANGING = 8  # of these signs beyond a line's end; a longer run of them is broken
KERNING = 0.1  # of a letter's size, that it may stand further from the one before, at most
EPOCH = time.gmtime(315532800)  # 1 January 1980: files repeat


def font(size: int) -> ImageFont.FreeTypeFont:
    """Noto Sans CJK in regular weight.

    Letters become pixels here, so that no viewer needs a Chinese font.
    """
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
        pen.text((MARGIN, MARGIN), title, "black", font(TITLE_SIZE))
        top += TITLE_HEIGHT

    height = PAGE[1] - top - MARGIN
    counts = range(1, len(pictures) + 1)
    columns = max(counts, key=lambda count: _side(len(pictures), count, height))
    side = _side(len(pictures), columns, height)
    row_height = height // _rows(len(pictures), columns)
    left = (PAGE[0] - columns * side - (columns - 1) * GAP) // 2
    caption_height = int(side * CAPTION) - 24

    for index, (path, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        x, y = left + column * (side + GAP), top + row * row_height
        picture = _scaled(path, side)
        page.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        text, face = fitted(f"{index + 1}  {caption}", side, caption_height)
        pen.multiline_text((x, y + side + 12), text, "black", face, spacing=face.size // 4)
    return page


def _rows(pictures: int, columns: int) -> int:
    return -(-pictures // columns)


def _side(pictures: int, columns: int, height: int) -> int:
    """Pixels of a picture's side where ``pictures`` with captions fill ``height`` in columns."""
    width = PAGE[0] - 2 * MARGIN
    by_width = (width - GAP * (columns - 1)) / columns
    by_height = height / _rows(pictures, columns) / (1 + CAPTION)
    return int(min(by_width, by_height))


def _scaled(path: Path, side: int) -> Image.Image:
    """The picture with its longer side of ``side`` pixels."""
    picture = images.read(path).image
    scale = side / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def fitted(text: str, width: int, height: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """``text`` in lines of at most ``width`` pixels, and the largest font that fits ``height``.

    What is too long for the smallest ends in an ellipsis.
    """
    text = text[:CAPTION_SIGNS]
    for size in SIZES:
        face = font(size)
        allowed = max(1, height * 4 // (5 * size + size))
        lines = wrapped(text, face, width, allowed)
        if len(lines) <= allowed:
            return "\n".join(lines), face
    lines[allowed - 1] = lines[allowed - 1][:-1] + "…"
    return "\n".join(lines[:allowed]), face


def wrapped(
    text: str, face: ImageFont.FreeTypeFont, width: int, most: int | None = None
) -> list[str]:
    """Lines no wider than ``width``, broken at the last space or Chinese character that fits.

    A comma or full stop begins no line. Signs that the font lacks, such as emoji, are left out.

    Args:
        most: Lines after which the rest is left out, one more than these at most.
    """
    lines, line = [], ""
    hanging = 0  # signs that begin no line, beyond the width
    advances: dict[str, float] = {}
    reach = 0.0  # of the line, pixels at most: it is measured only where it may be too wide
    for character in _in_font(text, face):
        if character not in advances:
            advances[character] = face.getlength(character) + KERNING * face.size
        reach += advances[character]
        if line and reach > width:
            reach = face.getlength(line + character)
        too_wide = line and reach > width
        hanging = hanging + 1 if too_wide and character in NO_LINE_START else 0
        if too_wide and (not hanging or hanging > MOST_HANGING):
            cut = _last_break(line, character)
            lines.append(line[:cut].rstrip())
            line = line[cut:]
            reach = face.getlength(line + character)
            if most is not None and len(lines) > most:
                return lines
        line += character
    return [*lines, line]


def _in_font(text: str, face: ImageFont.FreeTypeFont) -> str:
    """``text`` without what the font lacks, single spaces between words."""
    # Raqm would draw joiners and variation selectors, which stand in emoji, as something
    basic = face.font_variant(layout_engine=ImageFont.Layout.BASIC)
    missing = bytes(basic.getmask("\U0010ffff"))
    known = {
        character
        for character in set(text)
        if character.isspace() or bytes(basic.getmask(character)) != missing
    }
    return " ".join("".join(character for character in text if character in known).split())


def _last_break(line: str, following: str) -> int:
    """Where to break ``line`` before ``following``: at its end, or before its last Latin word."""
    cut = len(line)
    if not (following.isascii() and following.isalnum()):
        return cut
    while cut and line[cut - 1].isascii() and line[cut - 1] != " ":
        cut -= 1
    return cut or len(line)


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
