"""The pictures that one listing names, ``metadata.jsonl`` or another, with their captions."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from storyboard import images
from storyboard.data import rows as listing_rows
from storyboard.data import table
from storyboard.data.beside import read_file
from storyboard.data.captions import Note
from storyboard.data.lookup import Lookup
from storyboard.data.rows import Row
from storyboard.data.text_files import Refusal
from storyboard.data.tree import File, Tree, shown

NOT_READ = (".parquet", ".arrow", ".xlsx", ".xls", ".ods")
MAX_BYTES = 16 * 2**20  # of a listing: 80,000 rows or more
NO_TEXT = "has no column of captions; it may be called " + ", ".join(listing_rows.TEXT_KEYS)
MEANT_TWICE = "is not in the folder, and the end of its path is that of another row's picture too"


@dataclass(frozen=True)
class ListedPicture:
    """A picture of a folder, not opened yet.

    Attributes:
        name: Path in the folder, with ``/``, as people see it.
        text: The caption; empty where there is none.
        file: None where it is left out.
        reason: Why it is.
        note: What was guessed or repaired.
    """

    name: str
    text: str
    file: File | None
    reason: str = ""
    note: str = ""

    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds of the file."""
        return (self.file.size, self.file.changed) if self.file else (0, 0)


@dataclass(frozen=True)
class _Named:
    """A row of a listing, looked up.

    Attributes:
        where: The listing and the line.
        written: How the row names the picture; empty where it names none.
        picture: What the row alone gives.
        moved: Whether the path is not in the folder, and the picture was found by a part of it.
    """

    where: str
    written: str
    picture: ListedPicture
    moved: bool = False


class ListingFile:
    """A listing of a tree.

    Attributes:
        pictures: Of its rows, in their order; those that cannot be used with the reason.
        refused: Of these the ones that are there, with captions that cannot be used; by file.
        notes: What is to be known of the listing itself.
    """

    def __init__(self, name: str, tree: Tree, lookup: Lookup, taken: dict[str, str]) -> None:
        """Read the listing called ``name``.

        Args:
            taken: The listing and line that a file was named in, by its name; is added to.
        """
        self.name = name
        self.refused: dict[str, ListedPicture] = {}
        self.notes: list[Note] = []
        self._tree = tree
        self._lookup = lookup
        self._taken = taken
        self._folder = folder_of(name)
        self.pictures = self._read()

    def _read(self) -> list[ListedPicture]:
        name = shown(self.name)
        try:
            rows = self._rows()
        except Refusal as refusal:
            return [ListedPicture(name, "", None, str(refusal))]
        if not rows:
            return [ListedPicture(name, "", None, "is empty")]
        if not any(listing_rows.has_text(row.values) for row in rows):
            self.notes.append(Note(name, NO_TEXT))
        return self._settled([self._named(row) for row in rows])

    def _rows(self) -> list[Row]:
        if self.name in self._tree.left_out:
            raise Refusal(self._tree.left_out[self.name])
        if suffix(self.name) in NOT_READ:
            raise Refusal("is a table of a kind that is not read: save it as metadata.csv")
        decoded = read_file(self._tree.files[self.name], MAX_BYTES)
        if suffix(self.name) in (".csv", ".tsv"):
            rows = list(table.rows(decoded.text, self._names_file))
        elif suffix(self.name) == ".json":
            rows = list(listing_rows.from_json(decoded.text))
        else:
            rows = list(listing_rows.from_json_lines(decoded.text))
        if decoded.note:
            note = Note(shown(self.name), decoded.note, listing_rows.example(rows))
            self.notes.append(note)
        return rows

    def _names_file(self, cell: str) -> bool:
        if not images.is_named_as_picture(PurePosixPath(cell)):
            return False
        try:
            return bool(self._lookup.find(cell, self._folder))
        except Refusal:
            return False

    def _named(self, row: Row) -> _Named:
        where = f"{shown(self.name)} {row.line}"
        try:
            if row.refusal:
                raise Refusal(row.refusal)
            written = listing_rows.file_of(row.values)
        except Refusal as refusal:
            return _Named(where, "", ListedPicture(where, "", None, str(refusal)))

        name = shown(written)
        try:
            match = self._lookup.find(written, self._folder)
        except Refusal as refusal:
            # what the hub's stream wrote there in place of a picture
            reason = row.values.get("reason")
            reason = reason if isinstance(reason, str) and reason else str(refusal)
            return _Named(where, written, ListedPicture(name, "", None, shown(reason)))
        try:
            caption = listing_rows.caption_of(row.values)
        except Refusal as refusal:
            self._taken.setdefault(match.file.name, where)
            picture = ListedPicture(name, "", None, f"{where} {refusal}")
            self.refused.setdefault(match.file.name, picture)
            return _Named(where, written, picture)
        note = row.note or caption.note or match.note
        picture = ListedPicture(shown(match.file.name), caption.text, match.file, note=note)
        return _Named(where, written, picture, bool(match.note))

    def _settled(self, rows: list[_Named]) -> list[ListedPicture]:
        """The pictures of ``rows``, each once, without matches that may be by chance."""
        paths: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.picture.file:
                paths[row.picture.file.name].add(row.written if row.moved else "")

        pictures = []
        for row in rows:
            file = row.picture.file
            reason = ""
            if file and row.moved and len(paths[file.name]) > 1:
                reason = MEANT_TWICE
            elif file and self._taken.setdefault(file.name, row.where) != row.where:
                reason = f"is named again in {row.where}, first in {self._taken[file.name]}"
            if reason:
                pictures.append(ListedPicture(shown(row.written), "", None, reason))
            else:
                pictures.append(row.picture)
        return pictures


def suffix(name: str) -> str:
    """The suffix of the file called ``name``, in lower case."""
    return PurePosixPath(name).suffix.casefold()


def folder_of(name: str) -> str:
    """The folder that the file called ``name`` lies in; empty for the tree's root."""
    return name.rpartition("/")[0]
