"""Texts that other programs saved: the encoding found, damaged signs taken out, and both said."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from storyboard.errors import DatasetError

MAX_CAPTION = 10_000  # characters; text encoders read 77 or 256 tokens
MAX_FILE = 2**20  # bytes of a file that holds one caption
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# what editors on Windows save captions in, told apart by chardet
LEGACY = ("gb18030", "cp932", "cp949", "big5", "cp1252")
CYRILLIC = ("cp1251", "koi8-r")
# control characters, halves of surrogate pairs, non-characters, signs for "could not be read"
DAMAGE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffd-\uffff]+"
)
# what Data-Juicer writes into texts for a picture and for the end of its part
DATA_JUICER = re.compile(r"\s*(?:<__dj__\w{1,20}>|<\|__dj__\w{1,20}\|>)\s*")


class Refusal(ValueError):
    """Why a text, a row or a file is left out; collect lists it and goes on."""


@dataclass(frozen=True)
class Text:
    """A decoded text, and what was guessed or repaired; empty where nothing was."""

    text: str
    note: str = ""


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        DatasetError: Its encoding cannot be told.
    """
    try:
        return decode(path.read_bytes()).text
    except Refusal as refusal:
        raise DatasetError(f"{path} {refusal}.") from refusal


def decode(content: bytes) -> Text:
    """Text in UTF-8, in UTF-16 or 32 with or without a mark, or in an encoding that is guessed.

    Raises:
        Refusal: None fits.
    """
    for bom, encoding in BOMS:
        if content.startswith(bom):
            return _cleaned(content[len(bom) :].decode(encoding, "replace"))
    if encoding := _utf16_without_bom(content):
        return _cleaned(content.decode(encoding), f"read as {encoding.upper()}, a guess")
    try:
        return _cleaned(content.decode("utf-8"))
    except UnicodeDecodeError:
        return _decode_by_lines(content)


def _decode_by_lines(content: bytes) -> Text:
    """Text that is not UTF-8, or not in every line."""
    lines = content.split(b"\n")
    is_utf8 = [_is_utf8(line) for line in lines]
    if not any(whole and not line.isascii() for line, whole in zip(lines, is_utf8, strict=True)):
        return _guessed(content)
    # programs that append to a file may have another encoding than the one that began it
    texts = [
        Text(line.decode()) if whole else _guessed(line)
        for line, whole in zip(lines, is_utf8, strict=True)
    ]
    note = next(text.note for text in texts if text.note)
    return Text("\n".join(text.text for text in texts), note)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guessed(content: bytes) -> Text:
    """Text of one encoding that is not UTF-8, or UTF-8 with damaged bytes."""
    if repaired := _damaged_utf8(content):
        return _cleaned(repaired, "repaired, bytes that are not UTF-8 were taken out")

    encoding = _legacy_encoding(content)
    text = content.decode(encoding) if encoding else ""
    if encoding == "cp1252" and not _looks_western(text):
        encoding = None
        # a character cut in half at the end hides an Asian encoding; Cyrillic looks like accents
        for cut, candidates in ((content[:-1], LEGACY), (content, CYRILLIC)):
            second = _legacy_encoding(cut, candidates)
            if second and second != "cp1252":
                encoding, text = second, cut.decode(second)
                break
    if encoding is None or not _is_text(text):
        raise Refusal("is in no encoding that can be told: save it as UTF-8")
    return _cleaned(text, f"read as {encoding.upper()}, a guess")


def _damaged_utf8(content: bytes) -> str | None:
    """UTF-8 without its damaged bytes, where what is whole outweighs them; else None."""
    # some programs write each half of a surrogate pair by itself
    text = content.decode("utf-8", "surrogatepass" if b"\xed" in content else "ignore")
    whole = sum(len(sign.encode()) for sign in text if not sign.isascii())
    damaged = len(content) - len(text.encode())
    return text if whole > damaged else None
