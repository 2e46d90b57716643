"""Every file that people call a picture is read rightly, or refused in one sentence."""

import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from storyboard import images
from storyboard.errors import PictureError
from storyboard.images import decoding, formats, reading
from tests.conftest import picture
from tests.picture_files import PNG_SIGNATURE, chunk, encoded, pixels, refused

DRAWING = picture(3, 64)
OTHER = picture(4, 64)
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "QOI")
LOSSY = ("JPEG", "WEBP", "AVIF")


@pytest.mark.parametrize("form", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("suffix", [".png", ".xyz", ".TIF"])
def test_the_content_decides_what_a_file_is(form, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(DRAWING, form))
    read = images.read(path)
    assert read.image.mode == "RGB" and read.notes == ()
    assert np.abs(pixels(read.image) - pixels(DRAWING)).mean() <= (0 if form in LOSSLESS else 8)


def test_tga_which_has_no_signature_goes_by_its_suffix(tmp_path):
    for name in ("a.TGA", "a.png"):
        DRAWING.save(tmp_path / name, "TGA")
    assert (pixels(images.read(tmp_path / "a.TGA").image) == pixels(DRAWING)).all()
    with pytest.raises(PictureError, match="a.png cannot be read as a picture: it is no picture"):
        images.read(tmp_path / "a.png")


def test_every_suffix_that_is_read_belongs_to_a_format_of_pillow():
    Image.init()
    assert formats.FORMATS.keys() <= Image.OPEN.keys()
    of_pillow = Image.registered_extensions()
    for form, suffixes in formats.FORMATS.items():
        known = {suffix for suffix in suffixes if suffix in of_pillow}
        assert known and {of_pillow[suffix] for suffix in known} <= {form, "MPO", "DIB"}
    assert not formats.READ & formats.NOT_READ.keys()


@pytest.mark.parametrize(
    "name", ["a.png", "A.JPG", "a.jfif", "a.jpe", "a.apng", "a.avif", "a.heic", "a.NEF", "a.psd"]
)
def test_files_named_as_pictures(name, tmp_path):
    assert images.is_named_as_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "png", "a.png.txt", "a.mp4", "a.zip"])
def test_files_not_named_as_pictures(name, tmp_path):
    assert not images.is_named_as_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "export it as"),
        ("a.eps", b"\xc5\xd0\xd3\xc6" + bytes(60), "export it as PNG"),
        ("a.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "export it as PNG"),
        ("a.jpg", b"\n<!DOCTYPE html><html>404", "a web page .* download it again"),
        ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pip install pillow-heif"),
        ("a.HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "pip install pillow-heif"),
        ("a.png", b"\xff\x0a" + bytes(9), "pip install pillow-jxl-plugin"),
        ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n", "pip install pillow-jxl-plugin"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\2\0", "camera's raw file"),
        ("a.nef", b"MM\0*" + bytes(60), "camera's raw file"),
        ("a.raf", b"anything", "camera's raw file"),
        ("a.png", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera's raw file"),
        ("a.png", b"8BPS\0\1" + bytes(60), "a drawing program: export it as PNG"),
        ("a.clip", b"CSFCHUNK", "a drawing program: export it as PNG"),
        ("a.png", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "it is a video"),
        ("a.png", b"%PDF-1.7", "it is a PDF"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("a.png", b"PK\3\4", "a zip archive: unpack it"),
        ("a.png", b"", "it is empty: get it again"),
        ("a.png", bytes(500), "no picture, or too damaged to tell: get it again"),
        ("a.png", PNG_SIGNATURE, "its header is damaged: get it again"),
        ("a.png", b"\xff\xd8\xff", "it is cut off: get it again"),
        (
            "a.gif",
            b"GIF89a",
            "a GIF of a kind that is not read, or damaged: get it again, or as PNG",
        ),
        ("a.tif", b"II*\0" + bytes(99), "a TIFF of a kind that is not read, or damaged"),
    ],
)
def test_what_is_no_picture_is_named(name, content, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # Ghostscript
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=f"{name} cannot be read as a picture: .*{reason}"):
        images.read(tmp_path / name)


def test_a_format_is_read_once_its_package_is_installed(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which reads what follows the first box as a PNG."""
    package = tmp_path / "pillow_heif.py"
    package.write_text(
        "import io\n"
        "from PIL import Image, PngImagePlugin\n"
        "def opened(file, name):\n"
        "    return PngImagePlugin.PngImageFile(io.BytesIO(file.read()[24:]))\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', opened, lambda start: start[4:12] == b'ftypheic')\n"
    )
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + encoded(DRAWING, "PNG")
    assert "pip install pillow-heif" in refused(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    del sys.modules["pillow_heif"]  # which is undone afterwards, after it was imported
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert (pixels(images.read(content).image) == pixels(DRAWING)).all()


# what is more than one picture, or too large -----------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "AVIF", "TIFF", "MPO"])
def test_of_several_pictures_the_first_is_read(form):
    read = images.read(encoded(DRAWING, form, save_all=True, append_images=[OTHER]))
    assert np.abs(pixels(read.image) - pixels(DRAWING)).mean() < 8
    # the others of an MPO are previews of the first
    assert ["first" in note for note in read.notes] == ([] if form == "MPO" else [True])


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((5000, 1), "5000 x 1 pixels, more than 50 times as long as wide: cut it to pieces"),
        ((1, 51), "1 x 51 pixels, more than 50 times"),
        ((0, 9), "no pixels"),
        ((60000, 60000), "60000 x 60000 pixels, where .* can be read: save it smaller"),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
def test_sizes_that_no_stage_could_bear_are_refused_before_decoding(size, reason, form):
    content = encoded(Image.new("RGB", (1, 1)), form)
    width, height = size
    if form == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        content = PNG_SIGNATURE + b"".join(chunk(*part) for part in parts)
    elif form == "JPEG":
        frame = content.index(b"\xff\xc0")
        content = content[: frame + 5] + struct.pack(">HH", height, width) + content[frame + 9 :]
    else:
        content = content[:18] + struct.pack("<ii", width, height) + content[26:]
    found = refused(content)
    assert re.search(reason, found) or form == "BMP"  # Pillow's own words, for two of them


def test_pillows_own_limit_holds(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for form in ("PNG", "JPEG"):
        assert "64 x 64 pixels, where 2,000 can be read" in refused(encoded(DRAWING, form))
    for form in ("WEBP", "TIFF", "GIF"):
        assert "more pixels than can be read" in refused(encoded(DRAWING, form))


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"qoif" + struct.pack(">IIBB", 2000, 2000, 3, 0), "2,100,000"),
        (b"P3 2000 2000 255\n", "2,100,000"),
        (encoded(DRAWING, "BMP")[:18] + struct.pack("<ii", 9000, 9000), "64,000,000"),
    ],
)
def test_slow_decoders_get_fewer_pixels(content, limit):
    if content.startswith(b"BM"):
        content += encoded(DRAWING, "BMP")[26:]
    assert f"where {limit} can be read: save it smaller" in refused(content)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "L")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("TIFF", mode) for mode in ("RGB", "CMYK")),
    ],
)
def test_a_large_picture_is_scaled_down_in_bands(form, mode, monkeypatch):
    whole = images.read(encoded(picture(6, 255).convert(mode), form)).image
    monkeypatch.setattr(decoding, "LARGE", 10_000)
    monkeypatch.setattr(decoding, "BAND", 2_000)
    read = images.read(encoded(picture(6, 255).convert(mode), form))
    # a JPEG is halved by its decoder, and then again
    side, factor = (64, 4) if form == "JPEG" else (85, 3)
    assert read.image.size == (side, side) and read.content is None
    assert read.notes == (f"it has 255 x 255 pixels and was scaled down to {side} x {side}",)
    assert np.abs(pixels(read.image) - pixels(whole.reduce(factor))).mean() < 2


def test_bands_give_the_same_pixels(monkeypatch):
    for mode in ("RGBA", "P", "L"):
        content = encoded(picture(6, 100).convert(mode), "PNG")
        whole = images.read(content).image
        monkeypatch.setattr(decoding, "BAND", 1_000)
        assert images.read(content).image.tobytes() == whole.tobytes()
        monkeypatch.undo()


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(1001))
    assert "MB, where" in refused(tmp_path / "a.png")


# what is no file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "it is a folder, not a file"),
        ("pipe", "it is a named pipe, not a file"),
        ("socket", "it is a socket, not a file"),
        ("/dev/zero", "it is a device, not a file"),
        ("nothing.png", "it is a link to a file that is not there"),
        ("a.png", "it cannot be opened"),  # a link to itself
        ("missing", "there is no such file"),
        ("\0", "it cannot be opened"),
        ("x" * 300, "it cannot be opened"),
    ],
)
def test_what_is_no_file_is_refused_at_once(kind, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("a.png")
    elif kind in ("missing", "\0") or len(kind) > 255:
        path = tmp_path / f"{kind}.png"
    else:
        path.symlink_to(kind)
    assert reason in refused(path)


def test_a_kind_that_pillow_does_not_read_is_said():
    content = encoded(DRAWING, "JPEG")
    precision = content.index(b"\xff\xc0") + 4
    twelve_bits = content[:precision] + b"\x0c" + content[precision + 1 :]
    assert "a JPEG of a kind that is not read" in refused(twelve_bits)


def test_an_error_comes_whole_out_of_another_process():
    with pytest.raises(PictureError) as raised:
        images.read(b"", "a.png")
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.name, error.reason) == ("a.png", "it is empty: get it again")
    assert str(error) == "a.png cannot be read as a picture: it is empty: get it again."


@pytest.mark.parametrize("name", ["a\nb.png", "\udcd7\udccf.png", "y" * 3000])
def test_names_in_messages_are_one_line_that_can_be_printed(name):
    with pytest.raises(PictureError) as error:
        images.read(b"", name)
    assert (
        len(str(error.value)) < 500 and str(error.value).encode() and "\n" not in error.value.name
    )
