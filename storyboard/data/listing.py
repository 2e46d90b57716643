"""Which pictures and captions a folder has, in each of the forms in which people keep them."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storyboard import images
from storyboard.errors import DatasetError

CAPTION_SUFFIXES = (".txt", ".caption")
FILE_KEYS = ("file_name", "image", "images", "path", "image_path")
TEXT_KEYS = ("text", "caption", "prompt")
ENCODINGS = ("utf-8-sig", "gb18030")


@dataclass(frozen=True)
class ListedPicture:
    """A picture of a folder, not opened yet.

    Attributes:
        name: Path in the folder, with ``/``.
        text: The caption; empty where there is none.
        file: None where there is no such picture.
        reason: Why there is none.
    """

    name: str
    text: str
    file: Path | None
    reason: str = ""

    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds of the file."""
        if self.file is None:
            return (0, 0)
        status = self.file.stat()
        return (status.st_size, status.st_mtime_ns)


def read_folder(folder: Path, output: Path | None = None) -> Iterator[ListedPicture]:
    """The pictures of ``folder`` with their captions.

    Understands ``metadata.jsonl`` and ``metadata.csv`` as Hugging Face's imagefolder and
    Data-Juicer write them, and otherwise ``.txt`` or ``.caption`` files with a picture's name, as
    kohya's scripts do. What lies in ``output`` or in hidden folders is passed over.

    Raises:
        DatasetError: A listing cannot be read, or a row of it names no picture.
    """
    if (folder / "metadata.jsonl").is_file():
        yield from _from_jsonl(folder)
    elif (folder / "metadata.csv").is_file():
        yield from _from_csv(folder)
    else:
        yield from _from_files(folder, output.resolve() if output else None)


def _from_jsonl(folder: Path) -> Iterator[ListedPicture]:
    # not splitlines: a caption may hold other ends of lines
    lines = read_text(folder / "metadata.jsonl").split("\n")
    rows = [_parsed(line, number, folder) for number, line in enumerate(lines, 1) if line.strip()]
    for row in rows:
        yield _from_row(row, folder, "metadata.jsonl")


def _from_csv(folder: Path) -> Iterator[ListedPicture]:
    lines = io.StringIO(read_text(folder / "metadata.csv"), newline="")
    for row in csv.DictReader(lines):
        yield _from_row(row, folder, "metadata.csv")


def _from_files(folder: Path, output: Path | None) -> Iterator[ListedPicture]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if is_hidden or not images.is_named_as_picture(path):
            continue
        if output and path.resolve().is_relative_to(output):
            continue

        captions = [path.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
        caption = next((file for file in captions if file.is_file()), None)
        text = read_text(caption).strip() if caption else ""
        reason = images.irregular(path) or ""
        yield ListedPicture(name.as_posix(), text, None if reason else path, reason)


def read_text(path: Path) -> str:
    """A text file in UTF-8 or, as editors on Chinese Windows save it, in GB 18030."""
    content = path.read_bytes()
    for encoding in ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DatasetError(f"{path} is neither UTF-8 nor GB 18030 text: save it as UTF-8.")


def _parsed(line: str, number: int, folder: Path) -> dict:
    listing = folder / "metadata.jsonl"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"Line {number} of {listing} is not JSON ({error.msg}): correct or remove it."
        ) from error
    if not isinstance(row, dict):
        raise DatasetError(
            f'Line {number} of {listing} is not an object: write {{"file_name": ..., "text": ...}}.'
        )
    return row


def _from_row(row: dict, folder: Path, listing: str) -> ListedPicture:
    name = next((row[key] for key in FILE_KEYS if row.get(key)), None)
    if isinstance(name, list):
        name = name[0]
    if not isinstance(name, str):
        raise DatasetError(
            f"A row of {folder / listing} names no picture: give each a {FILE_KEYS[0]!r}."
        )

    text = caption_of(row)
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return ListedPicture(name, text, None, "lies outside the folder")
    if reason := images.irregular(path):
        return ListedPicture(name, text, None, str(row.get("reason") or reason))
    return ListedPicture(name, text, path)


def caption_of(row: dict) -> str:
    """The caption of a row of a listing or of a data set; empty where there is none."""
    return next((str(row[key]).strip() for key in TEXT_KEYS if row.get(key)), "")
