"""Every picture becomes opaque RGB with 8 bits a channel, however its shades are stored."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from storyboard import images
from storyboard.errors import SettingsError
from storyboard.rendering import references
from tests.conftest import picture
from tests.picture_files import (
    LONG,
    PNG_SIGNATURE,
    chunk,
    encoded,
    pixels,
    refused,
    tiff,
)

DRAWING = picture(3, 64)
RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)


def read(image: Image.Image, form: str = "PNG", **options) -> images.Picture:
    return images.read(encoded(image, form, **options))


def test_transparency_is_laid_on_white():
    clear = DRAWING.copy()
    clear.putalpha(0)
    assert pixels(read(clear).image).min() == 255
    alpha = Image.linear_gradient("L").resize(DRAWING.size)
    half = DRAWING.copy()
    half.putalpha(alpha)
    white = Image.new("RGB", DRAWING.size, "white")
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        found = pixels(read(half, form, **options).image)
        assert np.abs(found - pixels(Image.composite(DRAWING, white, alpha))).max() <= 1


@pytest.mark.parametrize(
    ("depth", "stored", "key"),
    [(1, 1, 1), (2, 2, 2), (4, 9, 9), (8, 200, 200), (16, 40000, 40000), (16, 40001, 40000)],
)
def test_one_transparent_shade_of_grey(depth, stored, key):
    """Greys of fewer bits than 8 are scaled, and their transparent one with them."""
    row = int(stored).to_bytes(2, "big") if depth == 16 else bytes([stored << (8 - depth)])
    other = bytes(2) if depth == 16 else bytes(1)
    header = struct.pack(">IIBBBBB", 1, 2, depth, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": struct.pack(">H", key)}
    found = pixels(images.read(png(parts, b"\0" + row + b"\0" + other)).image)[:, 0, 0].tolist()
    shown = 255 if stored == key else stored // 257
    assert found == [shown, 0]


def png(parts: dict[bytes, bytes], rows: bytes) -> bytes:
    data = parts | {b"IDAT": zlib.compress(rows), b"IEND": b""}
    return PNG_SIGNATURE + b"".join(chunk(*part) for part in data.items())


def test_one_transparent_colour_of_8_and_16_bits():
    found = pixels(read(DRAWING, transparency=DRAWING.getpixel((0, 0))).image)
    clear = (pixels(DRAWING) == DRAWING.getpixel((0, 0))).all(-1)
    assert (found[clear] == 255).all() and (found[~clear] == pixels(DRAWING)[~clear]).all()
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    colours = struct.pack(">6H", 60000, 300, 0, 0, 300, 60000)
    parts = {b"IHDR": header, b"tRNS": colours[:6]}
    found = images.read(png(parts, b"\0" + colours))
    assert pixels(found.image).tolist() == [[[255] * 3, [0, 1, 234]]] and found.content is None


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1", "CMYK", "YCbCr", "LAB", "PA", "RGBX"])
def test_every_mode_becomes_rgb(mode):
    form = "PNG" if mode in ("P", "L", "LA", "1") else "TIFF"
    image = picture(52).convert("P" if mode == "PA" else mode)
    found = read(image.convert(mode), form)
    assert found.image.mode == "RGB"
    assert np.abs(pixels(found.image) - pixels(image)).mean() < 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), RAMP / 257),
        (encoded(Image.fromarray(RAMP.astype(np.uint16)), "JPEG2000"), RAMP / 257),
        (encoded(Image.fromarray(RAMP.astype(np.uint16)), "PPM"), RAMP / 257),
        (tiff(RAMP.astype("<u2"), 16), RAMP / 257),
        (tiff(RAMP.astype("<u2"), 16, photometric=0), 255 - RAMP / 257),
        (tiff((RAMP / 2).astype("<i2"), 16, sample_format=2), RAMP / 257),
        (tiff(RAMP.astype("<i4"), 32, sample_format=2), RAMP / 257),
        (tiff(RAMP.astype("<u4"), 32), RAMP / 257),
        (tiff((RAMP * 32767).astype("<i4"), 32, sample_format=2), RAMP / 257),
        (tiff((RAMP * 65537).astype("<u4"), 32), RAMP / 257),
        (tiff((RAMP / 257).astype("<i4"), 32, sample_format=2), RAMP / 257),
        (tiff((RAMP / 65535).astype("<f4"), 32, sample_format=3), RAMP / 257),
        (tiff((RAMP / 65000).astype("<f4"), 32, sample_format=3), RAMP / 255),
        (tiff((RAMP / 257).astype("<f4"), 32, sample_format=3), RAMP / 257),
        (tiff(RAMP.astype("<f4"), 32, sample_format=3), RAMP / 257),
        (encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "PPM"), RAMP / 257),
    ],
)
def test_shades_of_more_than_8_bits_are_scaled(content, expected, tmp_path):
    """In collected pictures and in references: depth maps are often such."""
    found = images.read(content)
    assert np.abs(pixels(found.image)[..., 0] - expected.clip(0, 255)).max() < 1.1
    (tmp_path / "depth.png").write_bytes(content)
    references.check_picture(tmp_path / "depth.png", "The reference")
    seen = np.asarray(references.square(tmp_path / "depth.png", 64), int)
    assert np.abs(seen[..., 0] - expected.clip(0, 255)).max() < 1.1


def test_twelve_bits_are_scaled():
    """Two of them lie in three bytes (TIFF 6.0, bits in the order of FillOrder 1)."""
    content = tiff(np.frombuffer(b"\xff\xf8\0", np.uint8).reshape(1, 3), 12)
    content = content.replace(
        struct.pack("<HHII", 256, LONG, 1, 3), struct.pack("<HHII", 256, LONG, 1, 2)
    )
    assert pixels(images.read(content).image)[0, :, 0].tolist() == [255, 127]


def test_sixteen_bit_grey_keeps_its_shades():
    grey = Image.fromarray(np.full((64, 64), 10000, np.uint16))
    assert pixels(read(grey).image)[0, 0].tolist() == [38, 38, 38]


def test_a_range_that_is_a_guess_is_noted():
    metres = np.full((8, 8), 7.5, np.float32)
    found = images.read(tiff(metres, 32, sample_format=3))
    assert found.notes == ("its greys go up to 7.5 and are taken for 0 to 255",)


@pytest.mark.parametrize("values", [-1, 99999, np.nan, np.inf, -np.inf])
def test_shades_that_cannot_be_placed_are_an_error(values, tmp_path):
    content = tiff(np.full((8, 8), values, np.float32), 32, sample_format=3)
    assert "where 0 to 65535 can be shown: scale them" in refused(content)
    (tmp_path / "odd.tif").write_bytes(content)
    with pytest.raises(SettingsError, match="odd.tif, cannot be read as a picture: its greys"):
        references.check_picture(tmp_path / "odd.tif", "The reference")
