"""Which encoding bytes are in that are not UTF-8, as editors on Windows and other trainers save.

chardet is asked among few encodings: it names the right one for nearly all captions of two or more
Chinese, Japanese or Korean characters, where charset-normalizer is wrong for two in five.
"""

import re
import unicodedata

# what people save captions in where it is not Unicode
LEGACY = ("gb18030", "cp932", "cp949", "big5", "cp1252")
CYRILLIC = ("cp1251", "koi8-r")
WIDE = ("utf-16-le", "utf-16-be")
CHARACTERS_FOR_WIDE = 3  # fewer agree by chance
LATIN = 0x250  # where the blocks of Latin letters end
SAMPLE = 10_000  # characters that are looked at one by one
PUNCTUATION = {*range(0x2010, 0x2027), *range(0x3000, 0x3100), *range(0xFF00, 0xFFF0)}  # and kana


def guess(content: bytes) -> tuple[str, str] | None:
    """The likeliest encoding of ``content`` and its text; None where none fits.

    ``content`` is neither UTF-8 nor begins with a byte order mark.
    """
    if b"\0" in content:  # UTF-16 was asked for by its zeros before: a picture or an archive
        return None
    text = _decoded(content, LEGACY)
    if text and text[0] != "cp1252" and _is_text(text[1]):
        return text

    wide = utf16_of_common_characters(content)
    if wide:
        return wide, content.decode(wide)
    if text and _looks_western(text[1]):
        return text
    # a character cut in half at the end hides an Asian encoding, and Cyrillic looks like accents
    for part, candidates in ((content[:-1], LEGACY[:-1]), (content, CYRILLIC)):
        text = _decoded(part, candidates)
        if text and _looks_common(text[1]):
            return text
    return None


def utf16_with_zeros(content: bytes) -> str | None:
    """UTF-16's byte order, where Latin letters in it make every second byte a zero."""
    if len(content) % 2 or b"\0" not in content:
        return None
    for encoding in WIDE:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        sample = text[:SAMPLE]
        usual = sum(
            ord(sign) < LATIN or _is_common(sign) or "가" <= sign <= "힣" for sign in sample
        )
        if 10 * usual >= 9 * len(sample) and _is_text(text):
            return encoding
    return None


def utf16_of_common_characters(content: bytes) -> str | None:
    """UTF-16's byte order, where all characters would be common Chinese or Japanese ones."""
    for encoding in WIDE:
        try:
            text = "".join(content.decode(encoding).split())
        except UnicodeDecodeError:
            continue
        if len(text) >= CHARACTERS_FOR_WIDE and all(map(_is_common, text)):
            return encoding
    return None


def is_gbk_by_chance_utf8(content: bytes) -> bool:
    """Whether short GBK text is valid UTF-8 too, as letters of several alphabets in a row."""
    text = content.decode()
    # Chinese characters are three bytes in UTF-8
    if text.isascii() or not "\u0370" <= max(text) < "\u0800" or len(text) > SAMPLE:
        return False
    runs = re.findall("[\x80-\uffff]{2,}", text)
    alphabets = [{unicodedata.name(sign, "none").split()[0] for sign in run} for run in runs]
    if not any(len(names) > 1 or "none" in names for names in alphabets):
        return False
    try:
        return all(_is_common(sign) for sign in content.decode("gb18030") if not sign.isspace())
    except UnicodeDecodeError:
        return False


def _decoded(content: bytes, candidates: tuple[str, ...]) -> tuple[str, str] | None:
    import chardet

    if not content:
        return None
    found = chardet.detect(
        content,
        include_encodings=candidates,
        prefer_superset=True,
        compat_names=False,
        no_match_encoding=candidates[-1],
        max_bytes=len(content),
    )["encoding"]
    try:
        return (found, content.decode(found)) if found else None
    except (LookupError, UnicodeDecodeError):
        return None


def _is_text(text: str) -> bool:
    """Whether ``text`` has hardly a control character and none that no language has."""
    text = text[:SAMPLE]
    odd = sum(unicodedata.category(sign) in ("Cc", "Cn", "Co") for sign in text)
    return odd - sum(text.count(space) for space in "\t\n\r") <= len(text) // 50


def _is_common(sign: str) -> bool:
    """Whether it is ASCII, of the first level of GB 2312 or Big5, kana or their punctuation."""
    if sign.isascii():
        return sign.isprintable()
    if ord(sign) in PUNCTUATION:
        return True
    for encoding, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        code = sign.encode(encoding, "ignore")
        if code and first <= code[0] <= last:
            return True
    return False


def _looks_common(text: str) -> bool:
    """Whether most signs that are not ASCII are letters of one alphabet or common characters."""
    signs = [sign for sign in text if not sign.isascii()]
    common = sum(_is_common(sign) or "Ё" <= sign <= "ё" for sign in signs)
    return 10 * common >= 8 * len(signs) and len(set(signs)) > 1


def _looks_western(text: str) -> bool:
    """Whether accents and typographic signs stand between plain Latin letters."""
    letters = [sign for sign in text if sign.isalpha()]
    accented = [sign for sign in letters if not sign.isascii()]
    others = [sign for sign in text if not sign.isascii() and not sign.isalpha()]
    return _is_text(text) and 2 * len(accented) <= len(letters) and 4 * len(others) <= len(text)
