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
HIGH_BYTES = re.compile(b"[\x80-\xff]+")
ACCENTS = re.compile("[\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\u024f]+")
CONTROL = re.compile(b"[\x01-\x08\x0b\x0c\x0e-\x1f]")
# first bytes of punctuation, and of what the standard of each language has as its first level
FREQUENT = {
    "gb18030": ((0xA1, 0xA1), (0xA3, 0xA3), (0xB0, 0xD7)),  # GB 2312, level 1
    "cp932": ((0x81, 0x83), (0x88, 0x97)),  # kana and JIS X 0208, level 1
    "cp949": ((0xA1, 0xA1), (0xA3, 0xA3), (0xB0, 0xC8)),  # KS X 1001, Hangul
    "big5": ((0xA1, 0xA3), (0xA4, 0xC6)),  # level 1
}


def guess(content: bytes) -> tuple[str, str] | None:
    """The likeliest encoding of ``content`` and its text; None where none fits.

    ``content`` is neither UTF-8 nor begins with a byte order mark.
    """
    if b"\0" in content:  # UTF-16 was asked for by its zeros before: a picture or an archive
        return None
    found = _decoded(content, LEGACY)
    runs = HIGH_BYTES.findall(content)
    likely = [encoding for encoding in FREQUENT if in_frequent_characters(content, encoding)]
    is_western = found is not None and found[0] == "cp1252"
    # a letter with an accent stands alone, halves of Chinese characters come in pairs
    may_be_asian = not is_western or all(len(run) % 2 == 0 for run in runs)
    if likely and may_be_asian and (found is None or found[0] not in likely):
        return likely[0], content.decode(likely[0])
    if not likely and all(len(run) == 1 for run in runs):
        found = _decoded(content, LEGACY[-1:]) or found
    if found and found[0] != "cp1252" and _is_text(found[1]):
        return found

    wide = utf16_of_frequent_characters(content)
    if wide:
        return wide, content.decode(wide)
    if found and _looks_western(found[1]):
        return found
    # a character cut in half at the end hides an Asian encoding, and Cyrillic looks like accents
    whole = content[:-1] if content[-1:] >= b"\x80" else b""
    for part, candidates in ((whole, LEGACY[:-1]), (content, CYRILLIC)):
        found = _decoded(part, candidates)
        if found and _looks_frequent(found[1]):
            return found
    return None


def utf16_without_mark(content: bytes) -> str | None:
    """UTF-16's byte order, where bytes of it are zero or control characters, as no text's are."""
    if len(content) % 2:
        return None
    if b"\0" not in content:
        return utf16_of_frequent_characters(content) if CONTROL.search(content) else None
    for encoding in WIDE:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        sample = text[:SAMPLE]
        usual = sum(ord(sign) < LATIN or _is_frequent(sign) for sign in sample)
        if 10 * usual >= 9 * len(sample) and _is_text(text):
            return encoding
    return None


def utf16_of_frequent_characters(content: bytes) -> str | None:
    """UTF-16's byte order, where all signs would be frequent Chinese, Japanese or Korean ones."""
    if len(content) % 2:
        return None
    for encoding in WIDE:
        try:
            text = "".join(content.decode(encoding).split())
        except UnicodeDecodeError:
            continue
        if len(text) >= CHARACTERS_FOR_WIDE and all(map(_is_frequent, text)):
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
    return in_frequent_characters(content, "gb18030")


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


def in_frequent_characters(content: bytes, encoding: str) -> bool:
    """Whether all that is not ASCII in ``content`` would be frequent in ``encoding``'s language."""
    try:
        text = content.decode(encoding)[:SAMPLE]
    except UnicodeDecodeError:
        return False
    return all(sign.isascii() or _is_frequent_in(sign, encoding) for sign in text)


def _is_frequent_in(sign: str, encoding: str) -> bool:
    code = sign.encode(encoding, "ignore")
    first_trail = 0x40 if encoding in ("cp932", "big5") else 0xA1
    return (
        len(code) == 2
        and code[1] >= first_trail
        and any(first <= code[0] <= last for first, last in FREQUENT[encoding])
    )


def _is_frequent(sign: str) -> bool:
    """Whether it is plain ASCII, or frequent in one of the languages."""
    if sign.isascii():
        return sign.isprintable()
    return "Ё" <= sign <= "ё" or any(_is_frequent_in(sign, encoding) for encoding in FREQUENT)


def _looks_frequent(text: str) -> bool:
    """Whether most signs that are not ASCII are frequent ones."""
    signs = [sign for sign in text if not sign.isascii()]
    return 10 * sum(map(_is_frequent, signs)) >= 8 * len(signs) and len(set(signs)) > 1


def _looks_western(text: str) -> bool:
    """Whether signs that are not ASCII are few, and no three accented letters in a row."""
    letters = sum(map(str.isalpha, text))
    accents = ACCENTS.findall(text)
    others = sum(not sign.isascii() and not sign.isalpha() for sign in text)
    return (
        _is_text(text)
        and 2 * sum(map(len, accents)) <= letters
        and max(map(len, accents), default=0) < 3
        and 4 * others <= len(text)
    )
