"""Drawings as SVG text, packed small, and their pictures.

A pack is one solid xz archive: ``<set>.svgs`` holds the drawings of a set, separated by NUL;
``<set>.json`` the attributes of a set with captions; ``<set>.npy`` a set of ready pictures. Avatars
of one style share nearly all their parts, so that a drawing costs a few hundred bytes.
"""

import io
import json
import lzma
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import resvg_py

from storyboard.compat.opencv import cv2

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 28, "nice_len": 273}]


@dataclass
class Pack:
    """drawings: set -> SVG texts; rows: set -> attributes; pictures: set -> uint8 (n, s, s, 3)."""

    drawings: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[dict]] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        with (
            lzma.open(path, "wb", filters=FILTERS) as xz,
            tarfile.open(fileobj=xz, mode="w") as tar,
        ):
            for name, texts in self.drawings.items():
                _add(tar, f"{name}.svgs", "\0".join(texts).encode())
            for name, rows in self.rows.items():
                _add(tar, f"{name}.json", json.dumps(rows).encode())
            for name, pixels in self.pictures.items():
                content = io.BytesIO()
                np.save(content, pixels)
                _add(tar, f"{name}.npy", content.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Pack":
        pack = cls()
        with lzma.open(path) as xz, tarfile.open(fileobj=xz, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                name, kind = member.name.rsplit(".", 1)
                if kind == "svgs":
                    pack.drawings[name] = content.decode().split("\0")
                elif kind == "json":
                    pack.rows[name] = json.loads(content)
                else:
                    pack.pictures[name] = np.load(io.BytesIO(content))
        return pack


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def rasterise(svg: str, width: int) -> np.ndarray:
    """uint8 RGBA (h, width, 4), colours not multiplied by alpha."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2 or pixels.shape[2] == 3:  # resvg writes RGBA, but a decoder may drop it
        pixels = cv2.cvtColor(
            pixels, cv2.COLOR_BGR2BGRA if pixels.ndim == 3 else cv2.COLOR_GRAY2BGRA
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)


def flatten(pixels: np.ndarray, paper: tuple[int, int, int]) -> np.ndarray:
    """RGBA (h, w, 4) on paper of one colour: uint8 (h, w, 3)."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    colours = pixels[..., :3] * alpha + np.float32(paper) * (1 - alpha)
    return colours.round().astype(np.uint8)


def whole(svg: str, side: int, paper: tuple[int, int, int]) -> np.ndarray:
    """The whole drawing in a square of paper: uint8 (side, side, 3)."""
    pixels = rasterise(svg, side)
    height = len(pixels)
    if height > side:  # upright: drawn again at the width that fits
        pixels = rasterise(svg, max(8, side * side // height))[:side]
    height, width = pixels.shape[:2]
    square = np.full((side, side, 3), paper, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = flatten(pixels, paper)
    return square


def detail(
    svg: str, side: int, paper: tuple[int, int, int], zoom: float, rng: np.random.Generator
) -> np.ndarray:
    """A square of a drawing at ``zoom`` times its fitting size, where there is most to see."""
    pixels = flatten(rasterise(svg, round(side * zoom)), paper)
    height, width = pixels.shape[:2]
    square = np.full((max(height, side), max(width, side), 3), paper, np.uint8)
    square[:height, :width] = pixels
    best, most = square[:side, :side], -1.0
    for _ in range(4):
        top = rng.integers(0, len(square) - side + 1)
        left = rng.integers(0, square.shape[1] - side + 1)
        crop = square[top : top + side, left : left + side]
        variety = float(crop[::4, ::4].std())
        if variety > most:
            best, most = crop, variety
    return best
