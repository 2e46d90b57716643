"""Rows of a streamed data set as files: each picture as it is stored, captions in a listing."""

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from storyboard import artifacts, images
from storyboard.data.rows import TEXT_KEYS, has_text
from storyboard.errors import DatasetError

# a hop of fsspec's paths, ``zip://inside::outside``
ARCHIVE = re.compile(r"(?:zip|tar|gzip|bz2|lz4|xz|zstd)://")
DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError)


def repair(listing: Path) -> int:
    """Count the whole rows on disk; half a line that a break left behind is cut off."""
    if not listing.is_file():
        return 0
    content = listing.read_bytes()  # the break may be inside a character
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        artifacts.write_atomically(listing, whole)
    return whole.count(b"\n")


def print_missing_captions(row: dict, dataset_id: str) -> None:
    """Say so if ``row`` has no column of captions."""
    if has_text(row):
        return
    print(
        f"collect: {dataset_id} has the columns {', '.join(row)} and no captions in "
        f'{", ".join(TEXT_KEYS)}: set caption_template, such as "二次元", or captioner',
        flush=True,
    )


def picture_of(row: dict, columns: Sequence[str], dataset_id: str) -> dict | None:
    """The first picture of ``row``, as ``{"bytes", "path"}``; None where it holds none.

    Raises:
        DatasetError: No column is one of pictures.
    """
    for name in columns or row:
        value = row.get(name)
        if isinstance(value, dict) and {"bytes", "path"} <= value.keys():
            return value
    if not columns:
        raise DatasetError(
            f"{dataset_id} holds no pictures, only {', '.join(row)}: choose a data set of pictures."
        )
    return None


def save(
    picture: dict | None, holds: Callable[[str], bool], folder: Path, index: int
) -> dict[str, str]:
    """Write the picture of row ``index`` as it is; returns its part of a line of the listing.

    A picture that the data set does not hold gets a line with a ``reason``, so that rows keep their
    numbers.
    """
    path = Path(str((picture or {}).get("path") or ""))
    # whoever reads the file goes by its content, so that any suffix of a picture will do
    suffix = path.suffix.lower() if images.is_named_as_picture(path) else ".png"
    name = f"{index:06d}{suffix}"
    try:
        artifacts.write_atomically(folder / name, content(picture, holds))
    except (FileNotFoundError, IsADirectoryError, *DAMAGED_ARCHIVE) as error:
        return {"file_name": name, "reason": f"row {index}: {error}"}
    return {"file_name": name}


def content(picture: dict | None, holds: Callable[[str], bool]) -> bytes:
    """A picture's bytes, out of the row or out of the file that it names.

    Raises:
        FileNotFoundError: There is no picture, or it names a file that is not in the data set, or
            one of more bytes than are read.
    """
    from datasets.utils.file_utils import xopen

    picture = picture or {}
    if isinstance(picture.get("bytes"), bytes) and picture["bytes"]:
        return picture["bytes"]
    path = picture.get("path")
    if not isinstance(path, str) or not path or "\0" in path:
        raise FileNotFoundError("it holds no picture")

    *hops, outside = path.split("::")
    # a first hop without a protocol would be a file of this machine
    if not holds(outside) or not all(ARCHIVE.match(hop) for hop in hops):
        raise FileNotFoundError(f"{path} is not in the data set")
    if "://" not in outside and (reason := images.irregular(Path(outside))):
        raise FileNotFoundError(f"{path}: {reason}")
    with xopen(path, "rb") as file:
        found = file.read(images.MAX_BYTES + 1)  # an archive may unpack to any size
    if len(found) > images.MAX_BYTES:
        raise FileNotFoundError(f"{path} has more than {images.MAX_BYTES / 1e6:,.0f} MB")
    return found
