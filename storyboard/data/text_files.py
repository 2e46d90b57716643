"""Texts that other programs saved: the encoding found, damaged signs taken out, and both said."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from storyboard.data import encodings
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
# control characters, halves of surrogate pairs, non-characters, signs for "could not be read"
DAMAGE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffd-\uffff]"
)
# what Data-Juicer writes into texts for a picture and for the end of its part, whole or cut
DATA_JUICER = re.compile(r"<?\|?__dj__\w{0,20}\|?>?")
REPAIRED = "its text was repaired, damaged signs were taken out"


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
        raise DatasetError(f"The text file {path} {refusal}.") from refusal


def decode(content: bytes) -> Text:
    """Text in UTF-8, in UTF-16 or 32 with or without a mark, or in an encoding that is guessed.

    Raises:
        Refusal: None fits.
    """
    for bom, encoding in BOMS:
        if content.startswith(bom):
            return Text(content[len(bom) :].decode(encoding, "replace"))
    if encoding := encodings.utf16_without_mark(content):
        return Text(content.decode(encoding), _guess_of(encoding))
    if _is_utf8(content):
        encoding = "gb18030" if encodings.is_gbk_by_chance_utf8(content) else "utf-8"
        return Text(content.decode(encoding), "" if encoding == "utf-8" else _guess_of(encoding))

    lines = content.split(b"\n")
    readable = [line for line in lines if line.strip() and _is_utf8(line)]
    if all(line.isascii() for line in readable):
        try:
            return _guessed(content)
        except Refusal:
            if not readable or b"\0" in content:
                raise
    # programs that append to a file may have another encoding than the one that began it
    return _decoded_by_lines(lines)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded_by_lines(lines: list[bytes]) -> Text:
    """Text of which some lines are not UTF-8; what of them cannot be told is marked as damaged."""
    texts, note, usual = [], "", None
    for line in lines:
        if _is_utf8(line):
            texts.append(line.decode())
            continue
        if usual and encodings.in_frequent_characters(line, usual):  # quicker than a guess
            texts.append(line.decode(usual))
            continue
        repaired = _damaged_utf8(line)
        guess = None if repaired is not None else encodings.guess(line)
        if guess:
            usual, text = guess
            note = note or _guess_of(usual)
        else:
            text = repaired or line.decode("utf-8", "replace")
        texts.append(text)
    return Text("\n".join(texts), note)


def _guessed(content: bytes) -> Text:
    """Text that is not UTF-8, or UTF-8 in which damaged bytes are marked by U+FFFD."""
    repaired = _damaged_utf8(content)
    if repaired is not None:
        return Text(repaired)
    guess = encodings.guess(content)
    if guess is None:
        raise Refusal("is in no encoding that can be told: save it as UTF-8")
    encoding, text = guess
    return Text(text, _guess_of(encoding))


def _guess_of(encoding: str) -> str:
    return f"its text was read as {encoding.upper()}, a guess"


def _damaged_utf8(content: bytes) -> str | None:
    """UTF-8 with its damaged bytes marked, where what is whole outweighs them; else None."""
    try:
        # some programs write each half of a surrogate pair by itself
        halves = content.decode("utf-8", "surrogatepass")
        return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "ignore")
    lengths = [len(sign.encode()) for sign in text if not sign.isascii()]
    # pairs of bytes that look like UTF-8 are frequent in GBK, threes are not
    whole = sum(length if length > 2 else length / 8 for length in lengths)
    damaged = len(content) - len(text.encode())
    return content.decode("utf-8", "replace") if whole > damaged else None


def _replacement(damage: re.Match) -> str:
    code = ord(damage[0])
    if 0x80 <= code < 0xA0:  # Windows' quotation marks and dashes, taken for Latin-1 on the way
        return bytes([code]).decode("cp1252", "ignore")
    return " " if code < 0x80 else ""  # a control character may part two words


def caption(text: str) -> Text:
    """A caption without Data-Juicer's tokens, damaged signs and space at its ends.

    Raises:
        Refusal: It has more than MAX_CAPTION characters, or is mostly damaged.
    """
    text = text.strip()
    if len(text) > MAX_CAPTION:
        raise Refusal(
            f"has {len(text):,} characters, where a caption may have {MAX_CAPTION:,}: shorten it"
        )
    note = ""
    once = _saved_once(text)
    if once is not None:
        text, note = once, "its text was read as UTF-8 that was saved twice, a guess"
    if DAMAGE.search(text):
        text = text.rstrip("\0")  # padding to a fixed length
        lost = sum(not "\x80" <= sign < "\xa0" for sign in DAMAGE.findall(text))
        if 3 * lost > len(text):
            raise Refusal("is damaged: more than a third of it is no text")
        text, note = DAMAGE.sub(_replacement, text), note or REPAIRED
    parts = [part.strip() for part in DATA_JUICER.split(text)]
    return Text(" ".join(part for part in parts if part), note)


def _saved_once(text: str) -> str | None:
    """What UTF-8 was before a program took it for Windows-1252 and saved that as UTF-8."""
    if text.isascii():
        return None
    try:
        content = b"".join(_windows_byte(sign) for sign in text)
        return content.decode()
    except UnicodeError:
        return None


def _windows_byte(sign: str) -> bytes:
    try:
        return sign.encode("cp1252")
    except UnicodeEncodeError:
        return sign.encode("latin-1")  # browsers keep the five bytes that Windows does not define
