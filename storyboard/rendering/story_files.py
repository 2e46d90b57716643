"""Files of many stories: JSON lines, or a table whose rows are panels."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from storyboard import paths
from storyboard.data import text_files
from storyboard.errors import SettingsError, StoryboardError, brief
from storyboard.story import Panel, Story

PANEL = ("prompt", "negative_prompt", "seed")
ROW = ("name", *PANEL)  # of a story of one panel in JSON, and of a panel in a table
STORY = ("name", "panels", "negative_prompt")
DELIMITERS = (",", ";", "\t")
WHOLE_NUMBER = re.compile(r"(\d+)(\.0+)?")  # pandas writes 1.0 where another row has none

Stories = Mapping[str, Story] | Path | str


def named(stories: Stories) -> dict[str, Story]:
    """``stories`` by name, in order; a file is read.

    A line of ``.jsonl`` is ``{"name": ..., "panels": [...], "negative_prompt": ...}`` with panels
    of ``prompt``, ``negative_prompt`` and ``seed`` or of the prompt alone as text, or a story of
    one panel, ``{"name": ..., "prompt": ..., "negative_prompt": ..., "seed": ...}``. In ``.csv``
    these are the columns, and rows of one name that follow each other are a story.

    Raises:
        SettingsError: Something else; names the file and the line.
        DatasetError: Nobody can tell the encoding of the file.
    """
    if isinstance(stories, str | Path):
        path = Path(paths.taken("stories", stories))
        found = list(_of_file(path))
    elif isinstance(stories, Mapping):
        path = None
        found = [(f"stories[{brief(name)}]", name, story) for name, story in stories.items()]
    else:
        raise SettingsError(
            f'stories={brief(stories)} must be stories by name, {{"name": Story([...])}}, or the '
            "path of a .jsonl or .csv file."
        )
    if not found:
        raise SettingsError(f"{path or 'stories'} has no story: give it one.")

    result: dict[str, Story] = {}
    places: dict[str, str] = {}
    for where, value, story in found:
        name = paths.folder_name(f"{where}: name" if path else "The story's name", value)
        if not isinstance(story, Story):
            raise SettingsError(f"{where} is {brief(story)}: write Story([...]).")
        # one folder on disks that are blind to case
        key = unicodedata.normalize("NFC", name).casefold()
        if key in places:
            raise SettingsError(
                f"{where}: the name {brief(name)} is that of {places[key]} too, and each story has "
                "a folder by its name: give it another."
            )
        places[key], result[name] = where, story
    return result


def _of_file(path: Path) -> Iterator[tuple[str, object, Story]]:
    """Place, name and story of each story in a file."""
    kinds = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _table, ".tsv": _table}
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise SettingsError(
            f"{path} is no file of stories by its name: it must end in .jsonl or .csv."
        )
    try:
        text = text_files.read_text(path)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}): give the path of a .jsonl or .csv file of "
            "stories."
        ) from error
    yield from read(path, text)


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, object, Story]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "it is nested without end")
            raise SettingsError(
                f"{where} is no JSON ({what}): write one story a line, as "
                '{"name": "a", "panels": [{"prompt": "..."}]}.'
            ) from error
        try:
            yield where, *_story(row)
        except StoryboardError as error:
            raise SettingsError(f"{where}: {error}") from error


def _story(row: object) -> tuple[object, Story]:
    """The name and the story of a line."""
    if not isinstance(row, dict):
        raise SettingsError(f"{brief(row)} is no JSON object with a name and panels.")
    if "panels" not in row:
        _check_keys("A story of one panel", row, ROW)
        return row.get("name"), Story([_panel(_without_name(row))])
    _check_keys("A story", row, STORY)
    if not isinstance(row["panels"], list):
        raise SettingsError(f'"panels": {brief(row["panels"])} must be a list of panels.')
    panels = [_panel(each) if isinstance(each, dict) else each for each in row["panels"]]
    negative_prompt = row.get("negative_prompt")
    return row.get("name"), Story(panels, "" if negative_prompt is None else negative_prompt)


def _panel(row: dict) -> Panel:
    _check_keys("A panel", row, PANEL)
    return Panel(**row)


def _without_name(row: Mapping) -> dict:
    return {key: value for key, value in row.items() if key != "name"}


def _check_keys(title: str, row: Mapping, known: tuple[str, ...]) -> None:
    for key in row:
        if key not in known:
            raise SettingsError(f"{title} has no {brief(key)}: it may have {', '.join(known)}.")


def _table(path: Path, text: str) -> Iterator[tuple[str, object, Story]]:
    """Rows of a table; those of one name that follow each other are a story."""
    rows = groupby(_rows(path, text), key=lambda row: row[1].get("name"))
    for name, group in rows:
        panels, first = [], ""
        for where, row in group:
            first = first or where
            try:
                panels.append(_panel(_of_cells(row)))
            except StoryboardError as error:
                raise SettingsError(f"{where}: {error}") from error
        try:
            story = Story(panels)
        except StoryboardError as error:
            raise SettingsError(f"{first}: {error}") from error
        yield first, name, story


def _rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and cells of each row, by column."""
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(where, header)
                continue
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(header):
                raise SettingsError(
                    f"{where} has {len(cells)} cells where the header has {len(header)}: put a "
                    "prompt with commas in quotation marks."
                )
            yield where, dict(zip(header, (cell.strip() for cell in cells), strict=False))
    except csv.Error as error:
        raise SettingsError(
            f"{path}, line {line} cannot be read as a row ({error}): correct its quotation marks."
        ) from error


def _check_header(where: str, header: list[str]) -> None:
    if sorted(header) != sorted(set(header) & set(ROW)) or not {"name", "prompt"} <= set(header):
        raise SettingsError(
            f"{where}, the header of the table, is {', '.join(header)[:100]}: its columns must be "
            "name and prompt, and may be negative_prompt and seed."
        )


def _of_cells(row: dict[str, str]) -> dict[str, object]:
    """What ``Panel`` takes, of a row's cells; an empty one says nothing."""
    panel: dict[str, object] = {key: row[key] for key in PANEL if row.get(key)}
    if whole := WHOLE_NUMBER.fullmatch(row.get("seed", "")):
        panel["seed"] = int(whole[1])
    return panel
