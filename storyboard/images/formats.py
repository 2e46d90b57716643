"""Which files are pictures, by suffix and by content: the one list, for the whole package."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

# Pillow's name -> suffixes. What is not here is never tried: Pillow's reader of EPS, for one, runs
# Ghostscript on the file.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "TGA": (".tga", ".vda", ".icb", ".vst"),
}
WITHOUT_SIGNATURE = "TGA"  # tried for its own suffixes alone: any bytes could be one


@dataclass(frozen=True)
class Plugin:
    """A format that Pillow reads where another package is installed.

    Attributes:
        module: Registers the format when it is imported, or by its function ``register``.
        package: As pip knows it.
    """

    name: str
    module: str
    register: str | None
    package: str
    suffixes: tuple[str, ...]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def advice(self) -> str:
        return (
            f"it is {self.name}, which is read once {self.package} is installed "
            f"(pip install {self.package}): install it, or save the picture as PNG or JPEG"
        )


HEIF = Plugin(
    "HEIF",
    "pillow_heif",
    "register_heif_opener",
    "pillow-heif",
    (".heic", ".heics", ".heif", ".heifs", ".hif"),
)
JXL = Plugin("JXL", "pillow_jxl", None, "pillow-jxl-plugin", (".jxl",))
PLUGINS = (HEIF, JXL)

RAW = "it is a camera's raw file: develop it and save it as PNG or JPEG"
LAYERS = "it is a file of a drawing program: export it as PNG"
VECTOR = "it is a drawing in lines (SVG, PostScript or the like): export it as PNG"
OTHER = "it is of a format that is not read: save it as PNG"
ADVICE = {
    RAW: ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw"
    " .rw2 .rwl .sr2 .srf .srw .x3f",
    LAYERS: ".psd .psb .kra .xcf .clip .lip .procreate .sai .sai2 .mdp .ora .afphoto",
    VECTOR: ".svg .svgz .eps .ps .ai .cdr .wmf .emf",
    OTHER: ".ico .icns .cur .dds .exr .hdr .pcx .dcx .ras .sgi .bpg .flif .jxr .wdp .xbm .xpm",
}
NOT_READ = {suffix: advice for advice, suffixes in ADVICE.items() for suffix in suffixes.split()}

READ = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# files of these suffixes are taken for pictures: they are read, or listed with the reason
SUFFIXES = READ | {each for plugin in PLUGINS for each in plugin.suffixes} | NOT_READ.keys()

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
# first bytes -> what such a file is; after those of the formats that are read
FOREIGN = (
    (b"%!PS", VECTOR),
    (b"\xc5\xd0\xd3\xc6", VECTOR),
    (b"%PDF", "it is a PDF: export its pictures as PNG"),
    (b"8BPS", LAYERS),
    (b"\x8aMNG", OTHER),
    (b"\x00\x00\x01\x00", OTHER),
    (b"II*\x00\x10\x00\x00\x00CR", RAW),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIU\x00", RAW),
    (b"version https://git-lfs", "it is Git LFS's pointer to a picture: run git lfs pull"),
    (b"PK\x03\x04", "it is a zip archive: unpack it"),
    (b"\x1f\x8b", "it is a gzip archive: unpack it"),
    (b"Rar!", "it is a RAR archive: unpack it"),
    (b"\xff\x0a", JXL.advice),
    (b"\x00\x00\x00\x0cJXL ", JXL.advice),
)
# how files of the formats that are read begin
SIGNATURES = (
    (re.compile(rb"\x89PNG"), "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"GIF8"), "GIF"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"), "JPEG 2000"),
)
MARKUP = 512  # bytes in which an HTML or SVG file shows what it is


def is_named_as_picture(path: Path) -> bool:
    """Whether the suffix is one of a picture, read or not; upper case counts as lower."""
    return path.suffix.lower() in SUFFIXES


def candidates(content: bytes, suffix: str) -> tuple[str, ...]:
    """Pillow's names of the formats to try for ``content``."""
    plugins = (plugin.name for plugin in PLUGINS if plugin.is_installed)
    with_signature = (name for name in FORMATS if name != WITHOUT_SIGNATURE)
    found = (*with_signature, *plugins)
    return (*found, WITHOUT_SIGNATURE) if suffix in FORMATS[WITHOUT_SIGNATURE] else found


def foreign(content: bytes, suffix: str) -> str | None:
    """What ``content`` is, and the mend, where it is of no format that is read; else None."""
    if not content:
        return "it is empty: get it again"
    for first_bytes, reason in FOREIGN:
        if content.startswith(first_bytes):
            plugin = next((each for each in PLUGINS if each.advice == reason), None)
            return None if plugin and plugin.is_installed else reason
    start = content[:MARKUP].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it is a web page that was saved as a picture: download it again"
    if start.startswith((b"<?xml", b"<svg", b"<!--", b"<!doctype svg")):
        return VECTOR
    if content[4:8] == b"ftyp":
        return _foreign_boxes(content)
    if content.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return RAW if NOT_READ.get(suffix) == RAW else None
    return None


def _foreign_boxes(content: bytes) -> str | None:
    """What a file of ISO base media boxes is; None where it is AVIF or can be read as HEIF."""
    size = int.from_bytes(content[:4], "big")
    brands = {content[place : place + 4] for place in (8, *range(16, min(size, 256), 4))}
    if brands & AVIF_BRANDS:
        return None
    if brands & HEIF_BRANDS:
        return None if HEIF.is_installed else HEIF.advice
    if content[8:11] == b"crx":
        return RAW
    return "it is a video: save a picture of it as PNG"


def unidentified(content: bytes, suffix: str) -> str:
    """Why a file of ``suffix`` that no reader takes is left out, and the mend."""
    named = (name for pattern, name in SIGNATURES if pattern.match(content))
    if name := next(named, None):
        return f"it is a {name} of a kind that is not read, or damaged: get it again, or as PNG"
    for plugin in PLUGINS:
        if suffix in plugin.suffixes and not plugin.is_installed:
            return plugin.advice
    return NOT_READ.get(suffix, "it is no picture, or too damaged to tell: get it again")
