"""Rows of ``metadata.csv``, as spreadsheets and scripts write it."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence

from storyboard.data.rows import FOLDED_FILE_KEYS, FOLDED_TEXT_KEYS, Row, folded
from storyboard.data.text_files import Refusal

DELIMITERS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r"sep=.")  # Excel's own first line
LINES_A_ROW = 100  # at most, of a caption in quotation marks
UNQUOTED = "has commas outside quotation marks, which were taken as part of the caption"
# what a spreadsheet takes for a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")


def escaped(caption: str) -> str:
    """``caption`` so that no spreadsheet takes it for a formula: with an apostrophe before it."""
    return f"'{caption}" if FORMULA.match(caption) else caption


def unescaped(caption: str) -> str:
    """What ``escaped`` was given."""
    return caption[1:] if caption.startswith("'") and FORMULA.match(caption) else caption


def rows(text: str, is_picture: Callable[[str], bool]) -> Iterator[Row]:
    """Rows of a table with a header.

    Args:
        is_picture: Whether a cell names a picture: so commas outside quotation marks, and
            quotation marks that are never closed, are told from captions.

    Raises:
        Refusal: No column of its header holds pictures.
    """
    lines = re.split("\r\n|\n|\r", text)
    start = next((index for index, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise Refusal("is empty")
    if SEPARATOR_LINE.fullmatch(lines[start].strip()):
        start += 1
    delimiter, header = _header(lines[start] if start < len(lines) else "", is_picture)
    has_header = any(column in FOLDED_FILE_KEYS for column in header)
    if not has_header:
        header, start = ["filename", "text"], start - 1
    columns = _Columns(header, delimiter, is_picture)
    yield from columns.rows(lines, start + 1)


def _header(line: str, is_picture: Callable[[str], bool]) -> tuple[str, list[str]]:
    """The delimiter and the columns' folded names; ``[]`` where the first line is a row already."""
    for delimiter in DELIMITERS:
        header = [folded(cell) for cell in _cells(line, delimiter) or []]
        if any(column in FOLDED_FILE_KEYS for column in header):
            return delimiter, header
    for delimiter in DELIMITERS:
        cells = _cells(line, delimiter) or [""]
        if len(cells) > 1 and is_picture(cells[0]):
            return delimiter, []
    names = ", ".join(_cells(line, ",") or [line])[:100]
    raise Refusal(f"has no column of pictures in its header ({names}): call one 'file_name'")


def _cells(line: str, delimiter: str) -> list[str] | None:
    """The cells of one row, or None where a quotation mark is not closed."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


class _Columns:
    """How the lines of one table become rows."""

    def __init__(
        self, header: Sequence[str], delimiter: str, is_picture: Callable[[str], bool]
    ) -> None:
        self.header = header
        self.delimiter = delimiter
        self.is_picture = is_picture
        self.file = next(i for i, column in enumerate(header) if column in FOLDED_FILE_KEYS)
        texts = [header.index(key) for key in FOLDED_TEXT_KEYS if key in header]
        self.text = texts[0] if texts else None

    def rows(self, lines: Sequence[str], start: int) -> Iterator[Row]:
        index = start
        while index < len(lines):
            count = self._lines_of_row(lines, index)
            if lines[index].strip():
                line = f"line {index + 1}"
                try:
                    yield self._row(line, "\n".join(lines[index : index + count]))
                except Refusal as refusal:
                    yield Row(line, {}, str(refusal))
            index += count

    def _lines_of_row(self, lines: Sequence[str], index: int) -> int:
        """How many lines the row at ``index`` has; one where its quotation marks stay open."""
        marks = 0
        for count, number in enumerate(range(index, min(index + LINES_A_ROW, len(lines))), 1):
            if count > 1 and self._begins_row(lines[number]):
                return 1
            marks += lines[number].count('"')
            if marks % 2 == 0:
                return count
        return 1

    def _begins_row(self, line: str) -> bool:
        """Whether ``line`` by itself is a row with a picture."""
        before, found, after = (
            line.rpartition(self.delimiter) if self.file else line.partition(self.delimiter)
        )
        cell = after if self.file else before
        return bool(found) and self.is_picture(cell.strip().strip('"'))

    def _row(self, line: str, content: str) -> Row:
        cells = self._parsed(content)
        while len(cells) > len(self.header) and not cells[-1].strip():
            cells.pop()
        note = ""
        if len(cells) > len(self.header):
            cells, note = self._joined(self._parsed(content, keep_spaces=True)), UNQUOTED
        if len(cells) <= self.file:
            raise Refusal(f"has {len(cells)} cells where the header has {len(self.header)}")
        values = dict(zip(self.header, cells, strict=False))
        if self.text is not None and self.text < len(cells):
            values[self.header[self.text]] = unescaped(cells[self.text])
        return Row(line, values, note=note)

    def _parsed(self, content: str, keep_spaces: bool = False) -> list[str]:
        """The cells of a row.

        Raises:
            Refusal: Its quotation marks do not pair up, or a cell is larger than csv reads.
        """
        *parts, last = content.split("\n")
        lines = [*(f"{part}\n" for part in parts), last]
        try:
            return next(
                csv.reader(
                    lines, delimiter=self.delimiter, skipinitialspace=not keep_spaces, strict=True
                )
            )
        except csv.Error as error:
            raise Refusal(
                f"cannot be read as a row ({error}): correct its quotation marks"
            ) from error

    def _joined(self, cells: list[str]) -> list[str]:
        """``cells`` with those that commas in the caption parted put together.

        Raises:
            Refusal: Other columns could hold the commas too.
        """
        more = len(cells) - len(self.header)
        if self.text is None or len(self.header) > 2:
            raise Refusal(
                f"has {len(cells)} cells where the header has {len(self.header)}: "
                "put its caption in quotation marks"
            )
        end = self.text + more + 1
        caption = self.delimiter.join(cells[self.text : end])
        return [*cells[: self.text], caption, *cells[end:]]
