"""JPEG: its segments (ITU-T T.81, annex B).

Pillow takes many a file that is cut off, because its decoder fills what is missing with grey.
"""

import re
from collections.abc import Iterator

from storyboard.images import sizes
from storyboard.images.clean import CleanFile, Damaged

SOI, EOI, SOS, APP0, APP1, APP2, APP14, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
TABLES = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD}  # Huffman, arithmetic, quantisation, lines, restarts
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
APPLICATIONS = set(range(0xE0, 0xF0))
KEPT_APPLICATIONS = {APP0, APP14}  # JFIF and Adobe, which say how the colours are stored
# the next marker after coded pixels, in which FF00 and restarts (RST0 to RST7) may be
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ICC = b"ICC_PROFILE\0"
DHT, AC, END_OF_BLOCK = 0xC4, 1, 0
SEQUENTIAL = (0xC0, 0xC1)  # frames that Huffman's codes are written for in one pass
ZEROS = bytes(64)
MAX_SEGMENTS = 10_000
MAX_SCANS = 200  # of a progressive picture, each of which costs time for all its pixels
CUT = "it is cut off: get it again"


def cleaned(content: bytes) -> CleanFile:
    """``content``, a JPEG, without metadata and without what follows the (first) picture.

    Raises:
        Damaged: It is cut off, or there is something else where a marker should be.
    """
    kept = [content[:2]]
    exif, xmp, profile = [], [], []
    size: tuple[int, int] | None = None
    scans = 0
    sequential, first_codes = False, dict[int, int]()
    for marker, segment in _segments(content):
        data = segment[4:]
        if marker == APP1 and data.startswith(EXIF):
            exif.append(data[len(EXIF) :])
        elif marker == APP1 and data.startswith(XMP):
            xmp.append(data[len(XMP) :])
        elif marker == APP2 and data.startswith(ICC):
            profile.append(data[len(ICC) :])
        elif marker in FRAMES:
            size = (int.from_bytes(data[3:5], "big"), int.from_bytes(data[1:3], "big"))
            sequential = marker in SEQUENTIAL
        elif marker == DHT:
            first_codes |= _first_codes(data)
        elif marker == SOS:
            scans += 1
            if sequential and _is_zeroed(data, first_codes):
                raise Damaged("a part of it holds only zeros: get it again")
        if marker in KEPT_APPLICATIONS or marker not in APPLICATIONS | {COM}:
            kept.append(segment)
    if size is None or not scans:
        raise Damaged("it holds no pixels: get it again")
    sizes.check(size)
    if scans > MAX_SCANS:
        raise Damaged(f"it has more than {MAX_SCANS} scans: save it again")

    notes: list[str] = []
    return CleanFile(
        b"".join(kept),
        size,
        icc=_joined(profile, notes),
        exif=b"".join(exif),
        xmp=b"".join(xmp),
        notes=notes,
    )


def _first_codes(data: bytes) -> dict[int, int]:
    """Of each Huffman table for AC coefficients, by its number, what its code of zeros stands for.

    In the canonical code it is the first symbol (T.81, annex C).
    """
    found, place = {}, 0
    while place + 17 < len(data):
        kind, number = data[place] >> 4, data[place] & 15
        if kind == AC:
            found[number] = data[place + 17]
        place += 17 + sum(data[place + 1 : place + 17])
    return found


def _is_zeroed(data: bytes, first_codes: dict[int, int]) -> bool:
    """Whether a scan, whose segment is ``data``, holds zeros that no encoder writes.

    Zeros that end blocks are an even surface. As coefficients they would be whole blocks of -1.
    """
    if not data or ZEROS not in data:
        return False
    numbers = {data[place] & 15 for place in range(2, 2 + 2 * data[0], 2) if place < len(data)}
    return any(first_codes.get(number, END_OF_BLOCK) != END_OF_BLOCK for number in numbers)


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment up to the end of the picture; a scan's with its pixels."""
    place = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(content, place)
        if found is None:
            raise Damaged(CUT)
        start = found.start(1) - 1
        marker = content[start + 1]
        if marker == EOI:
            yield marker, content[start : start + 2]
            return
        if marker not in TABLES | FRAMES | APPLICATIONS | {SOS, COM}:
            raise Damaged(f"there is a marker FF{marker:02X} out of place: get it again")

        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if marker == SOS:
            following = MARKER.search(content, end)
            end = following.start() if following else len(content)
        if end > len(content) or end < start + 4:
            raise Damaged(CUT)
        yield marker, content[start:end]
        place = end
    raise Damaged(f"it has more than {MAX_SEGMENTS} segments: save it again")


def _joined(parts: list[bytes], notes: list[str]) -> bytes:
    """The ICC profile from its numbered parts; one that is not whole is noted.

    Each begins with its number and their count (ICC.1:2022, B.4).
    """
    ordered = sorted(parts)
    numbers = [part[:1] for part in ordered]
    counts = {part[1:2] for part in ordered}
    if parts and (numbers != [bytes([i + 1]) for i in range(len(parts))] or len(counts) != 1):
        notes.append("a part of its colour profile is missing, so that it is taken as sRGB")
        return b""
    if parts and counts != {bytes([len(parts)])}:
        notes.append("a part of its colour profile is missing, so that it is taken as sRGB")
        return b""
    return b"".join(part[2:] for part in ordered)
