"""``edits.csv``: what a person decided of collected pictures, written by ``curate`` or by hand.

A table with a header and a row for each picture that is taken out or described anew::

    file_name,keep,text
    girl/12.png,no,
    girl/13.png,yes,"anime, a girl with short purple hair, smiling"

``file_name`` is the picture's name in the data set. ``keep`` is yes or no, in English or Chinese;
empty is yes. An empty ``text`` leaves the caption as it was collected. Of a name or a text that a
spreadsheet would take for a formula, an apostrophe before it is no part.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts
from storyboard.data import rows, table, text_files
from storyboard.data.rows import FOLDED_FILE_KEYS, FOLDED_TEXT_KEYS, folded
from storyboard.data.text_files import Refusal
from storyboard.errors import DatasetError, brief

FILE = "edits.csv"  # in the output folder
COLUMNS = ("file_name", "keep", "text")
HEADER = ",".join(COLUMNS)
KEEP_KEYS = ("keep", "保留")
ANSWERS = {"": True} | dict.fromkeys(("yes", "y", "true", "1", "1.0", "是", "留"), True)
ANSWERS |= dict.fromkeys(("no", "n", "false", "0", "0.0", "否", "不留"), False)


@dataclass(frozen=True)
class Edit:
    """What was decided of one picture; an empty text leaves its caption as it was."""

    keep: bool = True
    text: str = ""

    def __bool__(self) -> bool:
        return not self.keep or bool(self.text)


@dataclass
class _Table:
    """The file's cells as they stand in it.

    Attributes:
        rows: Without those that are empty.
        lines: Where each row is, such as ``line 3``.
    """

    titles: list[str]
    rows: list[list[str]]
    lines: list[str]
    delimiter: str = ","

    def column(self, keys: Iterable[str], title: str) -> int:
        """The index of the column of one of ``keys``; where there is none it is added."""
        columns = [folded(each) for each in self.titles]
        found = next((columns.index(key) for key in keys if key in columns), None)
        if found is None:
            found = len(self.titles)
            self.titles.append(title)
        for row in self.rows:
            row.extend([""] * (len(self.titles) - len(row)))
        return found


class EditsFile:
    """``<output>/edits.csv`` as it is now; without the file it is empty.

    Attributes:
        edits: What it says of the pictures that there are, by name.
        unknown: Names of others. Their rows stay, and so do columns that are not ours.
        note: What was guessed in reading it.

    Args:
        names: Of the pictures that there are.

    Raises:
        DatasetError: The file cannot be read as such a table; the message names the line.
    """

    def __init__(self, output: Path, names: Iterable[str]) -> None:
        self.path = output / FILE
        self.edits: dict[str, Edit] = {}
        self.unknown: list[str] = []
        self.note = ""
        known = set(names)
        self._table = self._read(known) if self.path.exists() else _Table(list(COLUMNS), [], [])
        self._name = self._table.column(FOLDED_FILE_KEYS, COLUMNS[0])
        self._keep = self._table.column(KEEP_KEYS, COLUMNS[1])
        self._text = self._table.column(FOLDED_TEXT_KEYS, COLUMNS[2])
        self._index: dict[str, int] = {}
        for index in range(len(self._table.rows)):
            self._take(index, known)

    def change(self, changed: Mapping[str, Edit]) -> dict[str, Edit]:
        """Write ``changed`` into the file; returns ``edits`` as they are then.

        Raises:
            ResourceError: The disk is full or refuses it; the file stays as it was.
        """
        found = [list(cells) for cells in self._table.rows]
        for name, edit in changed.items():
            if name not in self._index:
                found.append([""] * len(self._table.titles))
                found[-1][self._name] = table.escaped(name)
            cells = found[self._index.get(name, -1)]
            cells[self._keep] = ("yes" if edit.keep else "no") if edit else ""
            cells[self._text] = table.escaped(edit.text)
        self._write([cells for cells in found if self._says_something(cells)])
        return {name: edit for name, edit in (self.edits | changed).items() if edit}

    def _says_something(self, cells: list[str]) -> bool:
        return any(cell for column, cell in enumerate(cells) if column != self._name)

    def _write(self, cells: list[list[str]]) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, delimiter=self._table.delimiter)
        writer.writerows([self._table.titles, *cells])
        # with the mark by which Excel knows UTF-8
        artifacts.write_atomically(self.path, lines.getvalue().encode("utf-8-sig"))

    def _read(self, known: set[str]) -> _Table:
        try:
            text = text_files.decode(self.path.read_bytes())
            self.note = text.note
            found = _plain(text.text) or self._guessed(text.text, known)
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read ({error.strerror}).") from error
        except Refusal as refusal:
            raise DatasetError(f"The table {self.path} {refusal}.") from refusal
        # a table without a header is read as names and captions
        if not any(folded(title) in KEEP_KEYS for title in found.titles):
            raise DatasetError(
                f"{self.path} has no column {COLUMNS[1]}: its first line must be {HEADER}."
            )
        return found

    def _guessed(self, text: str, known: set[str]) -> _Table:
        """A table whose quotation marks or commas are not as they should be."""
        found = list(table.rows(text, known.__contains__))
        for row in found:
            if row.refusal:
                raise DatasetError(f"In {self.path} the row of {row.line} {row.refusal}.")
        found = [row for row in found if any(map(str.strip, row.values.values()))]
        titles = list(dict.fromkeys(title for row in found for title in row.values))
        # of the column of captions ``table.rows`` has taken the apostrophes away
        text_key = next((key for key in FOLDED_TEXT_KEYS if key in titles), None)
        cells = [
            [
                table.escaped(row.values.get(title, ""))
                if title == text_key
                else row.values.get(title, "")
                for title in titles
            ]
            for row in found
        ]
        return _Table(titles or list(COLUMNS), cells, [row.line for row in found])

    def _take(self, index: int, known: set[str]) -> None:
        """Take up what a row says; raises DatasetError where that cannot be told."""
        line, cells = self._table.lines[index], self._table.rows[index]
        name = self._name_in(line, cells[self._name], known)
        if name in self._index:
            raise DatasetError(
                f"{self.path} {line} names {brief(name)} again: keep one of the two."
            )
        self._index[name] = index
        if name not in known:
            self.unknown.append(name)
        elif edit := self._edit(line, cells):
            self.edits[name] = edit

    def _edit(self, line: str, cells: list[str]) -> Edit:
        answer = cells[self._keep].strip()
        if answer.casefold() not in ANSWERS:
            raise DatasetError(f"{self.path} {line}: keep is {brief(answer)}, write yes or no.")
        try:
            text = text_files.caption(table.unescaped(cells[self._text])).text
        except Refusal as refusal:
            raise DatasetError(f"In {self.path} the row of {line} {refusal}.") from refusal
        return Edit(ANSWERS[answer.casefold()], text)

    def _name_in(self, line: str, cell: str, known: set[str]) -> str:
        """The picture that a cell names: as ``change`` writes it, or as a person does."""
        try:
            cell = rows.file_of({COLUMNS[0]: cell})
        except Refusal as refusal:
            raise DatasetError(f"In {self.path} the row of {line} {refusal}.") from refusal
        tidy = cell.strip()
        forms = (table.unescaped(cell), cell, table.unescaped(tidy), tidy)
        return next((form for form in forms if form in known), tidy)


def read(output: Path, names: Iterable[str]) -> dict[str, Edit]:
    """The edits in ``<output>/edits.csv``, by the picture's name; none where there is no such file.

    Prints a line of rows that are of other pictures, and one of what was guessed.

    Raises:
        DatasetError: As of ``EditsFile``.
    """
    file = EditsFile(output, names)
    if file.note:
        print(f"{file.path}: {file.note}")
    if file.unknown:
        others = f" (and {len(file.unknown) - 1} more)" if len(file.unknown) > 1 else ""
        print(f"{file.path}: there is no picture {file.unknown[0]!r}{others}, the row is not used")
    return file.edits


def _plain(text: str) -> _Table | None:
    """A table with a header as ``change`` and spreadsheets write it; None where it is none."""
    for delimiter in table.DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        found, start = [], 1
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    found.append((f"line {start}", cells))
                start = reader.line_num + 1
        except csv.Error:
            continue
        if found and table.SEPARATOR_LINE.fullmatch(delimiter.join(found[0][1]).strip()):
            del found[0]
        titles = found[0][1] if found else []
        columns = set(map(folded, titles))
        if columns.isdisjoint(FOLDED_FILE_KEYS) or columns.isdisjoint(KEEP_KEYS):
            continue
        cells_found = [_trimmed(cells, len(titles)) for _, cells in found[1:]]
        if not all(_is_plain(cells, len(titles)) for cells in cells_found):
            return None
        return _Table(titles, cells_found, [line for line, _ in found[1:]], delimiter)
    return None


def _is_plain(cells: list[str], count: int) -> bool:
    """Whether there are no more cells than columns, and no quotation mark was meant to open one."""
    return len(cells) <= count and not any(re.match(r'\s+"', cell) for cell in cells)


def _trimmed(cells: list[str], count: int) -> list[str]:
    """``cells`` without empty ones beyond ``count``."""
    while len(cells) > count and not cells[-1].strip():
        cells = cells[:-1]
    return cells
