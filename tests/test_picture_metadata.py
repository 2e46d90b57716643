"""Damaged metadata cost a note, not the picture: EXIF, XMP, texts, colour profiles."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from storyboard import images
from storyboard.images import exif as orientations
from tests.conftest import picture
from tests.picture_files import (
    GPS,
    LONG,
    MAKE,
    ORIENTATION,
    RATIONAL,
    RESOLUTION,
    SHORT,
    TEXT,
    TURNED,
    encoded,
    exchanged,
    exif,
    pixels,
    short,
    srgb,
    with_chunk,
    with_segment,
)

DRAWING = picture(3, 64)
WIDE = DRAWING.crop((0, 0, 64, 48))
LEFT_AS_IT_IS = "so that it is not turned"
AS_SRGB = "taken as sRGB"


def read(image: Image.Image, form: str = "PNG", **options) -> images.Picture:
    return images.read(encoded(image, form, **options))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation, form):
    asked = Image.Exif()
    asked[ORIENTATION] = orientation
    content = encoded(WIDE, form, exif=asked)
    with Image.open(io.BytesIO(content)) as image:
        expected = pixels(ImageOps.exif_transpose(image))
    assert (pixels(images.read(content).image) == expected).all()


@pytest.mark.parametrize(
    ("block", "is_turned", "note"),
    [
        (exif(TURNED, (RESOLUTION, RATIONAL, 1, b"\x26\0\0\0")) + bytes(8), True, None),  # 0 / 0
        (exif(TURNED, (RESOLUTION, SHORT, 1, short(72))), True, None),
        (exif(TURNED, (RESOLUTION, TEXT, 3, b"72\0\0")), True, None),
        (exif(TURNED, (MAKE, TEXT, 4000, b"\0\0\1\0")), True, "a part of its EXIF is damaged"),
        (exif(TURNED, (GPS, LONG, 1, b"\0\0\1\0")), True, "a part of its EXIF is damaged"),
        (exif((MAKE, TEXT, 4000, b"\0\0\1\0"), TURNED), True, "a part of its EXIF is damaged"),
        (b"Exif\0\0" + exif(TURNED), True, None),
        (exif((ORIENTATION, LONG, 1, struct.pack("<I", 6))), True, None),
        (exif(TURNED).replace(b"II*\0", b"II*!"), False, LEFT_AS_IT_IS),
        (exif(TURNED)[:20], False, LEFT_AS_IT_IS),
        (b"Exif\0\0garbage, no header at all", False, LEFT_AS_IT_IS),
        (exif((ORIENTATION, SHORT, 1, short(9))), False, "9 for the orientation"),
        (exif((ORIENTATION, TEXT, 2, b"6\0\0\0")), False, "no number for the orientation"),
        (exif((ORIENTATION, SHORT, 0, short(6))), False, "no number for the orientation"),
        (exif((ORIENTATION, SHORT, 1, short(0))), False, None),
        (exif(), False, None),
        (b"Exif\0\0", False, None),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_costs_a_note_and_not_the_picture(form, block, is_turned, note):
    stored = WIDE
    if form == "JPEG":
        plain = encoded(WIDE, form, quality=95)
        stored, content = images.read(plain).image, with_segment(plain, 0xE1, block)
    elif form == "PNG":
        content = with_chunk(encoded(WIDE, form), b"eXIf", block[6:])
    else:
        content = encoded(WIDE, form, lossless=True, exif=block)
    picture_read = images.read(content)
    turned = stored.transpose(Image.Transpose.ROTATE_270) if is_turned else stored
    assert picture_read.image.tobytes() == turned.tobytes()
    assert [note in each for each in picture_read.notes] == ([True] if note else [])


@pytest.mark.parametrize("packed", [False, True])
def test_exif_in_a_text_of_imagemagick_is_read(packed):
    texts = PngInfo()
    block = exif(TURNED).hex()
    texts.add_text("Raw profile type exif", f"\nexif\n {len(block) // 2}\n{block}\n", zip=packed)
    assert read(WIDE, pnginfo=texts).image.size == (48, 64)


def test_an_avif_with_damaged_exif_is_read():
    content = encoded(WIDE, "AVIF", exif=exif((MAKE, TEXT, 4, b"abc\0")))
    damaged = content.replace(b"II*\0", b"none")
    assert images.read(damaged).notes == ("its EXIF is damaged and was not used",)
    assert np.abs(pixels(images.read(damaged).image) - pixels(WIDE)).mean() < 8


@pytest.mark.parametrize(
    ("xmp", "size"),
    [
        (b"<x tiff:Orientation='6' \xa8\xff no UTF-8/>", (48, 64)),
        (b"<tiff:Orientation>8</tiff:Orientation>", (48, 64)),
        (b"<x:xmpmeta \xa8\xff broken />", (64, 48)),
        (b"", (64, 48)),
    ],
)
def test_xmp_is_asked_where_exif_does_not_say(xmp, size):
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    content = with_segment(encoded(WIDE, "JPEG"), 0xE1, segment)
    assert images.read(content).image.size == size
    upright = with_segment(content, 0xE1, exif((ORIENTATION, SHORT, 1, short(1))))
    assert images.read(upright).image.size == (64, 48)
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    assert images.read(with_chunk(encoded(WIDE, "PNG"), b"iTXt", text)).image.size == size


def test_no_block_of_exif_is_too_odd(rng):
    for _ in range(500):
        block = b"Exif\0\0II*\0" + rng.bytes(rng.integers(1, 80))
        value, trouble = orientations.orientation(block)
        assert 1 <= value <= 8 and (trouble is None or "EXIF" in trouble)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_a_text_of_megabytes_costs_a_note_and_not_the_picture(kind):
    """Pillow refuses such a picture, so that nothing spreads that unpacks to gigabytes."""
    texts = PngInfo()
    add = texts.add_itxt if kind == "iTXt" else texts.add_text
    add("parameters", "x" * 3_000_000, zip=kind != "tEXt")
    found = read(DRAWING, pnginfo=texts)
    assert (pixels(found.image) == pixels(DRAWING)).all()
    assert found.notes == ("its texts are longer than a megabyte and were not used",)
    assert len(found.content) < 10_000


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"eXIf", b"gAMA"])
@pytest.mark.parametrize("data", [b"", b"\0", b"a\0\1\0\xff", b"\xff" * 40])
@pytest.mark.parametrize("checksum", [None, 1])
def test_a_damaged_chunk_that_is_no_pixel_is_passed_over(kind, data, checksum):
    found = images.read(with_chunk(encoded(DRAWING, "PNG"), kind, data, checksum))
    assert (pixels(found.image) == pixels(DRAWING)).all()
    noted = f"its chunk {kind.decode()} is damaged and was not used" in found.notes
    assert noted == (checksum is not None)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_a_colour_profile_becomes_srgb(mode, form):
    """What is stored as red shows green; half of it is transparent, and white is laid under."""
    red = Image.new("RGB", (64, 64), (250, 10, 10))
    if mode == "RGBA":
        red.putalpha(128)
    found = read(red if mode == "RGBA" else red.convert(mode), form, icc_profile=exchanged())
    red, green, blue = pixels(found.image)[32, 32].tolist()
    under = 127 if mode == "RGBA" else 0
    assert green > 240 and red < 60 + under and blue < 60 + under and found.notes == ()
    assert min(red, blue) >= under and found.content is None


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_profile_for_rgb_at_a_grey_picture_costs_a_note(mode):
    grey = DRAWING.convert(mode)
    found = read(grey, icc_profile=srgb())
    assert (pixels(found.image) == pixels(grey)).all()
    assert found.notes == (
        f"its colour profile is for RGB and it is {mode[0].replace('1', 'L')}: taken as sRGB",
    )


@pytest.mark.parametrize(
    ("mode", "form", "profile"),
    [
        ("RGB", "PNG", srgb()[:200]),
        ("RGB", "JPEG", b"not a profile at all" * 10),
        ("RGB", "JPEG", srgb()[:16] + b"GRAY" + srgb()[20:]),
        ("RGB", "PNG", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
        ("RGB", "WEBP", bytes(200)),
        ("RGB", "AVIF", srgb()[:150]),
        ("RGB", "TIFF", b"x"),
        ("CMYK", "JPEG", srgb()),
        ("RGBA", "PNG", b"\xff" * 300),
        ("P", "PNG", srgb()[:300]),
    ],
)
def test_a_profile_that_is_damaged_or_does_not_fit_costs_a_note(mode, form, profile):
    image = DRAWING.convert(mode)
    found = read(image, form, icc_profile=profile)
    assert len(found.notes) == 1 and AS_SRGB in found.notes[0]
    assert np.abs(pixels(found.image) - pixels(image)).mean() < 8


@pytest.mark.parametrize(
    "profile", [b"", b"a", b"a\0\0", b"a\0\0garbage", b"a\0\1x\x9c", b"\0" * 9]
)
def test_a_profile_of_a_png_that_cannot_be_unpacked_costs_a_note(profile):
    found = images.read(with_chunk(encoded(DRAWING, "PNG"), b"iCCP", profile))
    assert AS_SRGB in found.notes[0] and (pixels(found.image) == pixels(DRAWING)).all()


def test_a_profile_in_parts_is_joined_in_their_order_or_not_used():
    profile = exchanged()
    parts = [b"ICC_PROFILE\0\2\2" + profile[90:], b"ICC_PROFILE\0\1\2" + profile[:90]]
    plain = encoded(Image.new("RGB", (16, 16), (250, 10, 10)), "JPEG")
    first = with_segment(plain, 0xE2, parts[0])
    red, green, _ = pixels(images.read(with_segment(first, 0xE2, parts[1])).image)[8, 8]
    assert green > 240 > 60 > red
    assert AS_SRGB in images.read(first).notes[0]
