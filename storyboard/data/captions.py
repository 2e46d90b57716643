"""A set of captioned pictures on disk: what ``collect`` and ``clean`` write and training reads."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from storyboard import artifacts, show
from storyboard.data import tree
from storyboard.errors import DatasetError

LISTING = "metadata.jsonl"
GALLERY_SIZE = 12  # pictures that the notebook shows of a set
LINES_SHOWN = 20  # of reasons and notes each


@dataclass(frozen=True)
class CaptionRow:
    """A picture and its caption, a line of ``metadata.jsonl``.

    Attributes:
        id: Different for each row.
        text: The caption; may be empty.
        image: Path of the picture, relative to the folder, with ``/``.
        source: Name of the picture in the data set that it was collected from.
    """

    id: str
    text: str
    image: str
    source: str | None = None

    @classmethod
    def from_json(cls, row: dict) -> "CaptionRow":
        """A row in Data-Juicer's multimodal form, where ``images`` is a list.

        Raises:
            ValueError: Something is missing or of another type, or the picture lies elsewhere.
        """
        try:
            content = (row["id"], row["text"], row["images"][0], row.get("source") or "")
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError("it has no id, text and images") from error
        if not all(isinstance(value, str) for value in content):
            raise ValueError("its id, text, images or source is no text")
        path = PurePosixPath(content[2])
        if path.is_absolute() or ".." in path.parts or "\0" in content[2]:
            raise ValueError(f"its picture {content[2]!r} is not in the folder")
        return cls(*content[:3], row.get("source"))

    def to_json(self) -> dict:
        row = {"id": self.id, "text": self.text, "images": [self.image]}
        return row if self.source is None else row | {"source": self.source}


@dataclass(frozen=True)
class UnreadablePicture:
    """What was left out, a picture or a row of a listing: its name in the data set, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What was guessed or repaired at a picture that was kept, or is to be known of the data set.

    Attributes:
        source: Name of the picture or file in the data set.
        text: What was done; the same words for the same kind, so that notes can be counted.
        example: What came out, such as a caption.
    """

    source: str
    text: str
    example: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.text}" + (f": {self.example!r}" if self.example else "")


@dataclass(frozen=True)
class Captions:
    """A set of captioned pictures on disk.

    Attributes:
        folder: Holds ``metadata.jsonl`` and the pictures.
        rows: One for each picture.
        unreadable: What was left out.
        notes: What was guessed or repaired.
        digest: SHA-256 over every caption and every picture's content.
    """

    folder: Path
    rows: list[CaptionRow]
    unreadable: list[UnreadablePicture] = field(default_factory=list)
    digest: str = ""
    notes: list[Note] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, row: CaptionRow) -> Path:
        """Where the picture of ``row`` is."""
        return self.folder / row.image

    @classmethod
    def load(cls, folder: Path) -> "Captions":
        """Read what ``collect`` or ``clean`` wrote; another program's folder has no manifest.

        Raises:
            DatasetError: ``metadata.jsonl`` or the manifest is missing or damaged.
        """
        manifest = artifacts.read_manifest(folder) or {}
        rows = read_rows(folder / LISTING)
        try:
            unreadable = [UnreadablePicture(**entry) for entry in manifest.get("unreadable", [])]
            notes = [Note(**entry) for entry in manifest.get("notes", [])]
            digest = manifest.get("digest") or digest_of(folder, rows)
        except (TypeError, OSError) as error:
            raise DatasetError(
                f"{folder} is damaged ({error}): have it made anew by collect or clean."
            ) from error
        return cls(folder, rows, unreadable, digest, notes)

    def names_json(self) -> list[list[str | None]]:
        """Id and name of each row, which are no part of ``digest``."""
        return [[row.id, row.source] for row in self.rows]

    def unreadable_json(self) -> list[dict]:
        """``unreadable`` as a manifest has it."""
        return [asdict(entry) for entry in self.unreadable]

    def notes_json(self) -> list[dict]:
        """``notes`` as a manifest has them."""
        return [asdict(note) for note in self.notes]

    def __str__(self) -> str:
        left_out = f", {len(self.unreadable)} left out" if self.unreadable else ""
        return f"{len(self)} captioned pictures in {tree.shown(str(self.folder))}{left_out}"

    def _repr_html_(self) -> str:
        stride = max(1, len(self) // GALLERY_SIZE)
        rows = self.rows[::stride][:GALLERY_SIZE]
        gallery = show.gallery((self.path(row), row.text) for row in rows)
        reasons = [f"{entry.source}: {entry.reason}" for entry in self.unreadable]
        notes = [str(note) for note in self.notes]
        return show.page(
            f"<b>{len(self)} captioned pictures</b><br>",
            gallery,
            _unfolding(f"{len(reasons)} left out", reasons),
            _unfolding(f"{len(notes)} to look at", notes),
        )


def _unfolding(summary: str, lines: list[str]) -> str:
    """The first ``lines`` under ``summary``; nothing where there is none."""
    return show.details(summary, show.bullets(lines[:LINES_SHOWN])) if lines else ""


def read_rows(listing: Path) -> list[CaptionRow]:
    """The rows of ``metadata.jsonl`` as ``write_rows`` wrote it.

    Raises:
        DatasetError: It cannot be read, which names the line.
    """
    rows: list[CaptionRow] = []
    try:
        with listing.open(encoding="utf-8") as lines:
            rows.extend(CaptionRow.from_json(json.loads(line)) for line in lines)
    # neither UTF-8 nor JSON, nested too deeply, or another program's form
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"{listing} is damaged near line {len(rows) + 1} ({reason}): "
            "have it made anew by collect or clean."
        ) from error
    return rows


def write_rows(folder: Path, rows: Iterable[CaptionRow]) -> None:
    """Write ``metadata.jsonl``."""
    lines = [json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows]
    artifacts.write_atomically(folder / LISTING, "".join(lines))


def digest_of(folder: Path, rows: Iterable[CaptionRow]) -> str:
    """SHA-256 over every caption and every picture's content."""
    return digest_of_contents(
        (row.text, artifacts.digest_of_file(folder / row.image)) for row in rows
    )


def digest_of_contents(contents: Iterable[tuple[str, str]]) -> str:
    """``digest_of`` from captions and digests of pictures that are known already."""
    return artifacts.fingerprint(rows=[list(content) for content in contents])
