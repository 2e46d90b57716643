"""A row of a listing or of a data set: which picture it names, and its caption."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from storyboard.data import text_files
from storyboard.data.text_files import Refusal, Text

FILE_KEYS = (
    "file_name",
    "image",
    "images",
    "path",
    "image_path",
    "file",
    "img",
    "image_file",
    "img_path",
    "file_path",
    "picture",
    "文件名",
    "图片",
    "图像",
    "路径",
)
TEXT_KEYS = (
    "text",
    "caption",
    "prompt",
    "captions",
    "description",
    "tags",
    "描述",
    "文本",
    "提示词",
)
SEPARATORS = re.compile(r"[\s_-]+")
SEVERAL = "has several captions, of which the first is used"
WRITE = 'write {"file_name": ..., "text": ...}'


@dataclass(frozen=True)
class Row:
    """A row of a listing.

    Attributes:
        line: Where it is, such as ``line 3``.
        values: By column; empty where it was refused.
        refusal: Why it cannot be used.
        note: What was guessed of it.
    """

    line: str
    values: dict
    refusal: str = ""
    note: str = ""


@lru_cache(maxsize=256)
def folded(column: str) -> str:
    """A column's name without case, spaces and underscores: people write ``File Name`` too."""
    return SEPARATORS.sub("", column.strip()[:100]).casefold()


FOLDED_FILE_KEYS = tuple(map(folded, FILE_KEYS))
FOLDED_TEXT_KEYS = tuple(map(folded, TEXT_KEYS))


def file_of(row: dict) -> str:
    """The path of the picture that ``row`` names.

    Raises:
        Refusal: It names none, or several.
    """
    by_column = _by_column(row)
    value = next((by_column[key] for key in FOLDED_FILE_KEYS if by_column.get(key)), None)
    if isinstance(value, list) and len(value) > 1:
        raise Refusal(f"names {len(value)} pictures: give each a row of its own")
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):  # Hugging Face's form of a picture: {"bytes": ..., "path": ...}
        value = value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise Refusal(f"names no picture: give each row a {FILE_KEYS[0]!r}")
    return value


def caption_of(row: dict) -> Text:
    """The caption of a row of a listing or of a data set; empty where there is none.

    Raises:
        Refusal: It is no text, or not one, or too long.
    """
    by_column = _by_column(row)
    for key in FOLDED_TEXT_KEYS:
        text = _caption(by_column.get(key), key)
        if text.text:
            return text
    return Text("")


def has_text(row: dict) -> bool:
    """Whether ``row`` has a column of captions, which may be empty."""
    return any(folded(str(column)) in FOLDED_TEXT_KEYS for column in row)


def example(rows: list[Row]) -> str:
    """The first caption of ``rows`` that is not plain ASCII, for people to judge a guess by."""
    for row in rows:
        try:
            text = caption_of(row.values).text
        except Refusal:
            continue
        if not text.isascii():
            return text[:80]
    return ""


def _by_column(row: dict) -> dict[str, object]:
    """``row`` by its columns' folded names; of two that fold to one the first."""
    return {folded(str(column)): row[column] for column in reversed(row)}


def _caption(value: object, key: str) -> Text:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas' missing value
        return Text("")
    if isinstance(value, str):
        return text_files.caption(value)
    if isinstance(value, dict):
        only = next(iter(value.values())) if len(value) == 1 else None
        if isinstance(only, str):
            return text_files.caption(only)
        keys = ", ".join(map(str, list(value)[:5]))[:60]
        raise Refusal(f"has as its {key} an object with {keys}: write one text")
    if isinstance(value, list):
        texts = [_caption(each, key) for each in value if not isinstance(each, (list, dict))]
        if len(texts) < len(value):
            raise Refusal(f"has a list of other things than texts as its {key}: write one text")
        return _one_of([text for text in texts if text.text], key)
    raise Refusal(f"has as its {key} no text but {str(value)[:40]}: put it in quotation marks")


def _one_of(texts: list[Text], key: str) -> Text:
    if len(texts) < 2:
        return texts[0] if texts else Text("")
    if key == "tags":
        return text_files.caption(", ".join(text.text for text in texts))
    return Text(texts[0].text, SEVERAL)


def from_json_lines(text: str) -> Iterator[Row]:
    """Rows of JSON, one a line, or of a JSON document that holds a list of them."""
    whole = _document(text)
    if isinstance(whole, list):
        yield from (_row(f"row {number}", row) for number, row in enumerate(whole, 1))
        return
    # not splitlines: a caption may hold other ends of lines
    for number, line in enumerate(re.split("\r\n|\n|\r", text), 1):
        content = line.strip().rstrip(",").rstrip()
        if not content:
            continue
        try:
            yield _row(f"line {number}", parsed(content))
        except Refusal as refusal:
            yield Row(f"line {number}", {}, str(refusal))


def from_json(text: str) -> Iterator[Row]:
    """Rows of a JSON document: a list of objects, or objects or captions by the picture's name.

    The latter is the form of kohya's ``meta_cap.json``.

    Raises:
        Refusal: It is no JSON, or of another form.
    """
    content = parsed(text)
    if isinstance(content, dict):
        lists = [value for value in content.values() if _is_list_of_rows(value)]
        if len(lists) == 1:
            content = lists[0]
        elif any(folded(key) in FOLDED_FILE_KEYS for key in content):
            content = [content]
    if isinstance(content, list):
        yield from (_row(f"row {number}", row) for number, row in enumerate(content, 1))
    elif isinstance(content, dict):
        for number, (name, value) in enumerate(content.items(), 1):
            values = _kohyas_caption(value) if isinstance(value, dict) else {"text": value}
            yield Row(f"entry {number}", values | {FILE_KEYS[0]: name})
    else:
        raise Refusal("is neither a list of rows nor an object of them")


def _kohyas_caption(values: dict) -> dict:
    """``values`` with caption and tags in one text, as kohya's scripts join them."""
    parts = [values.get("caption"), values.get("tags")]
    if not all(isinstance(part, str) and part for part in parts):
        return values
    return values | {"text": ",".join(parts)}


def parsed(text: str) -> object:
    """The JSON ``text``.

    Raises:
        Refusal: It is none, nested too deeply, or holds too large a number.
    """
    try:
        return json.loads(text, strict=False)  # raw tabs and ends of lines in captions are plain
    except json.JSONDecodeError as error:
        raise Refusal(f"is not JSON ({error.msg}): correct or remove it") from error
    except RecursionError as error:
        raise Refusal("is JSON that is nested too deeply: correct or remove it") from error
    except ValueError as error:  # whole numbers of more digits than Python reads
        raise Refusal("holds a number of too many digits: correct or remove it") from error


def _document(text: str) -> object:
    """The whole JSON ``text`` where it begins as a list; else None."""
    if text.lstrip()[:1] != "[":
        return None
    try:
        return parsed(text)
    except Refusal:
        return None


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _row(line: str, row: object) -> Row:
    if not isinstance(row, dict):
        return Row(line, {}, f"is not an object: {WRITE}")
    return Row(line, row)
