"""A set of captioned pictures on disk: what ``collect`` and ``clean`` write and training reads."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storyboard import artifacts, show

LISTING = "metadata.jsonl"
GALLERY_SIZE = 12  # pictures that the notebook shows of a set
REASONS_SHOWN = 20


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
        """A row in Data-Juicer's multimodal form, where ``images`` is a list."""
        return cls(row["id"], row["text"], row["images"][0], row.get("source"))

    def to_json(self) -> dict:
        row = {"id": self.id, "text": self.text, "images": [self.image]}
        return row if self.source is None else row | {"source": self.source}


@dataclass(frozen=True)
class UnreadablePicture:
    """A picture that was left out: its name in the data set, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Captions:
    """A set of captioned pictures on disk.

    Attributes:
        folder: Holds ``metadata.jsonl`` and the pictures.
        rows: One for each picture.
        unreadable: What was left out.
        digest: SHA-256 over every caption and every picture's content.
    """

    folder: Path
    rows: list[CaptionRow]
    unreadable: list[UnreadablePicture] = field(default_factory=list)
    digest: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, row: CaptionRow) -> Path:
        """Where the picture of ``row`` is."""
        return self.folder / row.image

    @classmethod
    def load(cls, folder: Path) -> "Captions":
        """Read what ``collect`` or ``clean`` wrote; another program's folder has no manifest."""
        manifest = artifacts.read_manifest(folder) or {}
        with (folder / LISTING).open(encoding="utf-8") as lines:
            rows = [CaptionRow.from_json(json.loads(line)) for line in lines]
        unreadable = [UnreadablePicture(**entry) for entry in manifest.get("unreadable", [])]
        return cls(folder, rows, unreadable, manifest.get("digest") or digest_of(folder, rows))

    def unreadable_json(self) -> list[dict]:
        """``unreadable`` as a manifest has it."""
        return [asdict(entry) for entry in self.unreadable]

    def __str__(self) -> str:
        left_out = f", {len(self.unreadable)} left out as unreadable" if self.unreadable else ""
        return f"{len(self)} captioned pictures in {self.folder}{left_out}"

    def _repr_html_(self) -> str:
        stride = max(1, len(self) // GALLERY_SIZE)
        rows = self.rows[::stride][:GALLERY_SIZE]
        gallery = show.gallery((self.path(row), row.text) for row in rows)
        reasons = [f"{entry.source}: {entry.reason}" for entry in self.unreadable[:REASONS_SHOWN]]
        left_out = show.details(
            f"{len(self.unreadable)} left out as unreadable", show.bullets(reasons)
        )
        return show.page(
            f"<b>{len(self)} captioned pictures</b><br>", gallery, left_out if reasons else ""
        )


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
