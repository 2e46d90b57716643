"""The zip of a story bundle, with nothing of it trusted."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from storyboard.errors import BundleError

LIMITS = {"story.json": 8 * 2**20, "lora.safetensors": 4 * 2**30}  # bytes that are read at most
PICTURE_LIMIT = 128 * 2**20
FILES_LIMIT = 256
# Times its packed size that a file may unpack to: text of equal panels has 60, pictures and weights
# hardly any
MOST_UNPACKED = {".json": 200, ".md": 200}
MOST_UNPACKED_OTHERS = 20
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # bundle() stores; people may pack again
# What zipfile and json raise on damaged bytes: they check little of them
DAMAGED = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # JSON that is nested without end, zips of a kind that zipfile does not know
)


def expanded(path: Path | str) -> Path:
    """``path`` with the home folder for ``~``; BundleError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BundleError(f"{path} begins with ~ and the name of no user: write it out.") from error


@contextmanager
def opening(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The zip at ``path`` and its files by name.

    Raises:
        BundleError: It is no zip, its names point outside, or it is damaged, also where that shows
            only as files are read.
    """
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise BundleError(f"{path} is no file: give the story.zip that bundle() made.")
        with zipfile.ZipFile(path) as archive:
            yield archive, entries(path, archive)
    except DAMAGED as error:
        text = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{path} is no whole story bundle ({type(error).__name__}: {text}): get it again."
        ) from error


def entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What a zip holds, by name; BundleError where a name points outside its folder."""
    infos = archive.infolist()
    for info in infos:
        name = PurePosixPath(info.orig_filename)
        if (
            name.is_absolute()
            or ".." in name.parts
            or re.search(r"[\\:\0]", info.orig_filename)
            or stat.S_ISLNK(info.external_attr >> 16)
        ):
            raise BundleError(
                f"{path} holds {info.orig_filename!r}, which points outside its folder: "
                "do not open it, it was not made by bundle()."
            )
    names = {info.filename for info in infos}
    is_encrypted = any(info.flag_bits & 1 for info in infos)
    if len(infos) > FILES_LIMIT or len(names) != len(infos) or is_encrypted:
        raise BundleError(
            f"{path} holds more than {FILES_LIMIT} files, one of them twice, or encrypted ones: "
            "it was not made by bundle()."
        )
    is_packed_otherwise = any(info.compress_type not in PACKED for info in infos)
    packed = sum(info.compress_size for info in infos)
    if is_packed_otherwise or packed > path.stat().st_size:
        raise BundleError(
            f"{path} holds files that lie one in another or are packed in a way that bundle() does "
            "not use: it was not made by bundle()."
        )
    return {info.filename: info for info in infos}


def read_file(
    path: Path, archive: zipfile.ZipFile, files: dict[str, zipfile.ZipInfo], name: str, limit: int
) -> bytes:
    """The file ``name``; BundleError where it is missing or larger than ``limit`` bytes."""
    if name not in files:
        raise BundleError(f"{path} lacks {name}: it is no whole story bundle, get it again.")
    check_size(path, files[name], limit)
    return archive.read(files[name])


def check_size(path: Path, info: zipfile.ZipInfo, limit: int) -> None:
    """Raise BundleError where a file of a zip unpacks to more than ``limit`` bytes, or is a bomb.

    zipfile reads no more than what the entry announces.
    """
    size, name = info.file_size, f"{info.filename!r:.100}"
    if size > limit:
        raise BundleError(
            f"{path} holds a {name} of {size / 1e6:,.0f} MB, more than the {limit / 1e6:,.0f} MB "
            "that are read: it was not made by bundle()."
        )
    most = MOST_UNPACKED.get(Path(info.filename).suffix, MOST_UNPACKED_OTHERS)
    if size > most * (info.compress_size + 1000):
        raise BundleError(
            f"{path} holds a {name} that unpacks to more than {most} times its size: it was not "
            "made by bundle()."
        )
