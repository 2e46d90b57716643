"""Picture files that are none, hold another size than they have bytes for, or have odd names."""

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.bad_inputs import Wrong

SIDE = 64
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".PNG", ".jfif", ".gif", ".avif", ".bmp", ".tga")
HALF_A_SHADE = 2.0  # of 255, that lossless pictures may differ by


def drawing(rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, r = (rng.randrange(SIDE) for _ in range(3))
        fill = tuple(rng.randrange(256) for _ in range(3))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    return image


def encoded(image: Image.Image, form: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def must_be_refused(pixels: np.ndarray | None) -> None:
    if pixels is not None:
        raise Wrong("it was taken for a picture")


def same_as(image: Image.Image, or_refused: bool = False) -> Callable:
    """A check that what was read is ``image``."""
    expected = np.asarray(image.convert("RGB"), int)

    def check(pixels: np.ndarray | None) -> None:
        if pixels is None:
            if not or_refused:
                raise Wrong("a good picture was refused")
        elif pixels.shape != expected.shape or np.abs(pixels - expected).mean() > HALF_A_SHADE:
            raise Wrong("other pixels were read than are stored")

    return check


def kept(pixels: np.ndarray | None) -> None:
    if pixels is None:
        raise Wrong("a good picture was refused")


def foreign(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    name, content = rng.choice(
        [
            ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n{} loop\n"),
            ("HTML", b"<!DOCTYPE html><html>404</html>"),
            ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.randbytes(200)),
            ("JPEG XL", b"\xff\x0a" + rng.randbytes(200)),
            ("PSD", b"8BPS\0\1" + rng.randbytes(200)),
            ("PDF", b"%PDF-1.7\n"),
            ("video", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + rng.randbytes(200)),
            ("nothing", b""),
            ("zeros", bytes(rng.randrange(1, 5000))),
            ("random bytes", b"\x03" + rng.randbytes(rng.randrange(1, 5000))),
            ("signature alone", rng.choice([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"])),
            ("LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ]
    )
    suffix = rng.choice([".png", ".jpg", ".heic", ".jxl", ".cr2", ".psd", ".eps", ".webp"])
    path = data / f"bad{suffix}"
    path.write_bytes(content)
    return f"{name} named {suffix}", path, must_be_refused


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def bomb(rng: random.Random, data: Path) -> tuple[str, Path, Callable | None]:
    """Small files of pictures, profiles or texts that are huge when unpacked."""
    sizes = [(60000, 60000), (5000, 1), (1, 5000), (0, 64), (2**31 - 1, 2**31 - 1), (20000, 200)]
    width, height = rng.choice(sizes)
    kind = rng.choice(["PNG", "GIF", "BMP", "PPM", "profile"])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(20_000_000))
    start = b"\x89PNG\r\n\x1a\n"
    if kind == "profile":
        picture = encoded(drawing(rng), "PNG")
        path = data / "bad.png"
        path.write_bytes(picture[:33] + chunk(b"iCCP", b"a\0\0" + zeros) + picture[33:])
        return "PNG with a huge profile", path, kept
    content = {
        "PNG": start + chunk(b"IHDR", header) + chunk(b"IDAT", zeros) + chunk(b"IEND", b""),
        "GIF": b"GIF89a" + struct.pack("<HH", width % 65536, height % 65536) + b"\x80\0\0" * 3,
        "BMP": b"BM" + struct.pack("<IIIIiiHH", 99, 0, 54, 40, width, height, 1, 24) + bytes(24),
        "PPM": b"P6 %d %d 255\n" % (width, height),
    }[kind]
    path = data / f"bad.{kind.lower()}"
    path.write_bytes(content)
    return f"{kind} of {width} x {height}", path, must_be_refused


def no_file(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    path = data / f"bad{rng.choice(SUFFIXES)}"
    kind = rng.choice(["pipe", "folder", "socket", "link to nothing", "link to itself", "device"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            here = Path.cwd()
            os.chdir(data)  # the name of a socket has at most 107 bytes
            opened.bind(path.name)
            os.chdir(here)
    else:
        targets = {
            "link to nothing": "none.png",
            "link to itself": path.name,
            "device": "/dev/zero",
        }
        path.symlink_to(targets[kind])
    return f"a {kind}", path, must_be_refused


def odd_name(rng: random.Random, data: Path) -> tuple[str, Path, Callable]:
    image = drawing(rng)
    name = rng.choice(
        ["a\nb", "\udcd7\udccf", "x" * 240, " ", "-rf", "a'\"b", "🙂", "%s{}", "\x1b[0m"]
    )
    path = data / f"{name}.png"
    image.save(data / "tmp.png")
    (data / "tmp.png").rename(path)
    return f"a picture called {name!r}", path, same_as(image)
