"""What a person decided of collected pictures: ``edits.csv``, written by ``curate`` or by hand.

A table with a header and a row for each picture that is taken out or described anew::

    file_name,keep,text
    girl/12.png,no,
    girl/13.png,yes,"anime, a girl with short purple hair, smiling"

``file_name`` is the picture's name in the data set. ``keep`` is yes or no, in English or Chinese;
empty is yes. An empty ``text`` leaves the caption as it was collected.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from storyboard import artifacts
from storyboard.data import rows, table, text_files, writing
from storyboard.data.captions import Captions, UnreadablePicture
from storyboard.data.rows import Row, folded
from storyboard.data.text_files import Refusal
from storyboard.errors import DatasetError, brief

FILE = "edits.csv"  # in the output folder
COLLECTED, FOLDER = "collected", "edited"  # there, too: the captions before and after the edits
KEEP = "keep"
COLUMNS = ("file_name", KEEP, "text")
HEADER = ",".join(COLUMNS)
ANSWERS = {"": True} | dict.fromkeys(("yes", "y", "true", "1", "是", "留"), True)
ANSWERS |= dict.fromkeys(("no", "n", "false", "0", "否", "不留"), False)
TAKEN_OUT = f"taken out by hand, in {FILE}"


@dataclass(frozen=True)
class Edit:
    """What was decided of one picture; an empty text leaves its caption as it was."""

    keep: bool = True
    text: str = ""

    def __bool__(self) -> bool:
        return not self.keep or bool(self.text)


def read(output: Path, names: Iterable[str]) -> dict[str, Edit]:
    """The edits in ``<output>/edits.csv``, by the picture's name; none where there is no such file.

    Args:
        names: Of the pictures there are. Rows of others are left out, with a line printed.

    Raises:
        DatasetError: The file cannot be read as such a table; the message names the line.
    """
    path = output / FILE
    if not path.exists():
        return {}
    known = set(names)
    edits: dict[str, Edit] = {}
    unknown = []
    for row in _rows(path, known):
        name = _name(path, row)
        if name in edits:
            raise DatasetError(f"{path} {row.line} names {brief(name)} again: keep one of the two.")
        if name not in known:
            unknown.append(name)
        elif edit := _edit(path, row):
            edits[name] = edit
    if unknown:
        others = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        print(f"{path}: there is no picture {unknown[0]!r}{others}, the row is not used")
    return edits


def write(output: Path, edits: Mapping[str, Edit]) -> Path:
    """Write ``edits`` to ``<output>/edits.csv``, so that a spreadsheet opens it; returns the path.

    Raises:
        ResourceError: The disk is full or refuses it.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, edit in edits.items():
        if edit:
            writer.writerow([name, "yes" if edit.keep else "no", table.escaped(edit.text)])
    path = output / FILE
    # with the mark by which Excel knows UTF-8
    artifacts.write_atomically(path, lines.getvalue().encode("utf-8-sig"))
    return path


def current(captions: Captions, output: Path) -> Captions:
    """``captions``, collected into ``output`` before or after edits, as the edits are now.

    What another call or program made is returned as it is.

    Raises:
        DatasetError: As of ``apply``, or ``<output>/collected`` is missing or damaged.
    """
    folder = captions.folder.resolve()
    if folder == (output / FOLDER).resolve():
        captions = Captions.load(output / COLLECTED)
    elif folder != (output / COLLECTED).resolve():
        return captions
    return apply(captions, output)


def apply(collected: Captions, output: Path) -> Captions:
    """``collected`` as ``<output>/edits.csv`` wants it, in ``<output>/edited``; as it is without.

    What is taken out is listed in ``unreadable``, with that reason.

    Raises:
        DatasetError: The file cannot be read, or it takes out every picture.
    """
    edits = read(output, (row.source for row in collected.rows if row.source))
    if not edits:
        return collected
    texts, taken_out = {}, []
    for row in collected.rows:
        edit = edits.get(row.source or "", Edit())
        if edit.keep:
            texts[row.id] = edit.text or row.text
        else:
            taken_out.append(UnreadablePicture(str(row.source), TAKEN_OUT))
    if not texts:
        raise DatasetError(f"{output / FILE} takes out every picture: set keep to yes for some.")
    described = sum(edit.keep for edit in edits.values())
    print(f"{output / FILE}: {len(taken_out)} pictures taken out, {described} captions changed")
    return _written(collected, texts, [*collected.unreadable, *taken_out], output / FOLDER)


def _written(
    collected: Captions, texts: dict[str, str], unreadable: list[UnreadablePicture], target: Path
) -> Captions:
    """The rows of ``texts`` (id -> caption) as a folder of their own."""
    left_out = [asdict(each) for each in unreadable]
    fingerprint = artifacts.fingerprint(
        stage="edit", captions=collected.digest, texts=texts, unreadable=left_out
    )
    if not artifacts.finished(target, fingerprint):
        with artifacts.building(target) as folder:
            digest = writing.write(collected, texts, folder)
            artifacts.write_manifest(
                folder,
                "edit",
                fingerprint,
                digest=digest,
                unreadable=left_out,
                notes=collected.notes_json(),
            )
    return Captions.load(target)


def _rows(path: Path, known: set[str]) -> list[Row]:
    """The rows of the table; raises DatasetError where it is no such table."""
    try:
        text = text_files.decode(path.read_bytes()).text
        found = list(table.rows(text, known.__contains__))
        for row in found:
            if row.refusal:
                raise DatasetError(f"In {path} the row of {row.line} {row.refusal}.")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error
    except Refusal as refusal:
        raise DatasetError(f"The table {path} {refusal}.") from refusal
    # a table without a header is read as names and captions
    if found and not any(KEEP in map(folded, row.values) for row in found):
        raise DatasetError(f"{path} has no column {KEEP}: its first line must be {HEADER}.")
    return found


def _edit(path: Path, row: Row) -> Edit:
    """What ``row`` decides; raises DatasetError where that cannot be told."""
    answer = str(row.values.get(KEEP) or "").strip()
    if answer.casefold() not in ANSWERS:
        raise DatasetError(f"{path} {row.line}: keep is {brief(answer)}, write yes or no.")
    try:
        text = rows.caption_of(row.values).text
    except Refusal as refusal:
        raise DatasetError(f"In {path} the row of {row.line} {refusal}.") from refusal
    return Edit(ANSWERS[answer.casefold()], text)


def _name(path: Path, row: Row) -> str:
    """The picture that ``row`` names; raises DatasetError where it names none."""
    try:
        return rows.file_of(row.values).strip()
    except Refusal as refusal:
        raise DatasetError(f"In {path} the row of {row.line} {refusal}.") from refusal
