"""Damaged pixels cost the picture, whatever Pillow makes of them; damage elsewhere does not."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from storyboard import images
from storyboard.errors import PictureError
from tests.conftest import picture
from tests.picture_files import PNG_SIGNATURE, chunk, chunks, encoded, pixels, refused, with_chunk

DRAWING = picture(3, 64)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "QOI", "JPEG2000", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.98])
def test_a_file_that_is_cut_off_is_refused(form, share):
    content = encoded(DRAWING, form)
    assert "get it again" in refused(content[: int(len(content) * share)])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_no_cut_of_a_jpeg_goes_unseen(options):
    """Pillow alone takes many of these and shows grey for what is missing."""
    content = encoded(DRAWING, "JPEG", **options)
    for end in range(2, len(content)):
        refused(content[:end])
        refused(content[:end] + bytes(len(content) - end))


def test_zeros_in_the_middle_of_a_jpeg_are_refused():
    """As of a disk or a download that lost a block; Pillow takes them for pixels."""
    content = encoded(picture(3), "JPEG", quality=90)
    start = content.index(b"\xff\xda") + 14
    for place in range(start, len(content) - 600, 500):
        zeroed = content[:place] + bytes(512) + content[place + 512 :]
        assert "holds only zeros" in refused(zeroed)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_even_surfaces_of_a_jpeg_are_no_damage(optimize, mode):
    for colour in ("white", "black", "gray", "red"):
        even = Image.new("RGB", (512, 512), colour).convert(mode)
        found = images.read(encoded(even, "JPEG", optimize=optimize))
        assert np.abs(pixels(found.image) - pixels(even)).max() <= 2


def test_a_marker_out_of_place_in_a_jpeg_is_refused():
    content = encoded(DRAWING, "JPEG")
    middle = content.index(b"\xff\xda") + 200
    assert "FF01 out of place" in refused(content[:middle] + b"\xff\x01" + content[middle:])


def refused_or_the_same(content: bytes, image: Image.Image) -> None:
    try:
        found = images.read(content)
    except PictureError:
        return
    assert (pixels(found.image) == pixels(image)).all()


def test_no_damaged_byte_of_a_png_goes_unseen():
    image = picture(5, 16)
    content = encoded(image, "PNG")
    end = content.index(b"IEND") - 4
    for place in range(len(PNG_SIGNATURE), len(content)):
        for mask in (1, 0x20, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= mask
            refused_or_the_same(bytes(damaged), image)
            if place < end:
                refused(bytes(damaged))
        refused_or_the_same(content[:place] + bytes(len(content) - place), image)


def test_damaged_pixels_of_a_png_with_the_right_checksum_are_refused():
    (_, header), (_, data), _ = chunks(encoded(picture(5, 16), "PNG"))

    def png(packed: bytes) -> bytes:
        parts = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
        return PNG_SIGNATURE + b"".join(chunk(*part) for part in parts)

    for place in range(2, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 4
        refused_or_the_same(png(bytes(damaged)), picture(5, 16))
    assert "cut off" in refused(png(data[: len(data) // 2]))
    assert "more pixels than" in refused(png(zlib.compress(zlib.decompress(data) + b"\0")))
    checksum_is_missing = png(data[:-4])
    assert (pixels(images.read(checksum_is_missing).image) == pixels(picture(5, 16))).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 17), (64, 64)])
def test_pixels_of_every_kind_of_png_are_counted_rightly(mode, size, tmp_path):
    image = DRAWING.resize(size).convert(mode)
    content = encoded(image, "PNG")
    assert (pixels(images.read(content).image) == pixels(image)).all()


def test_an_interlaced_png_is_read():
    """Written by hand, by the passes of PNG's section 8.1: Pillow writes none."""
    image = DRAWING.resize((11, 7))
    values = np.asarray(image)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    rows = b""
    for left, top, right, down in (*passes, (0, 1, 1, 2)):
        part = values[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    header = struct.pack(">IIBBBBB", 11, 7, 8, 2, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    read = images.read(PNG_SIGNATURE + b"".join(chunk(*part) for part in parts))
    assert (pixels(read.image) == values).all()


def test_a_png_whose_pixels_are_whole_is_kept():
    content = encoded(DRAWING, "PNG")
    for odd in (content[:-12], content[:-3], content + b"PK\3\4 and more"):
        assert (pixels(images.read(odd).image) == pixels(DRAWING)).all()
    assert images.read(content[:-12]).notes == ("its end is missing, all its pixels are there",)


def test_chunks_that_no_png_has_are_named():
    content = encoded(DRAWING, "PNG")
    assert "a chunk CgBI" in refused(with_chunk(content, b"CgBI", bytes(4)))  # of Apple's tools
    assert images.read(with_chunk(content, b"prVt", b"private")).notes == ()
