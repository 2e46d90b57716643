"""How EXIF or XMP ask for a picture to be turned, whatever else of them is damaged."""

import re
import struct

from PIL import Image

ORIENTATION = 0x0112  # the tag, and what each of its values asks for (Exif 2.32, 4.6.4.A)
UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BYTE, SHORT, LONG = 1, 3, 4  # types of values (TIFF 6.0, section 2)
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
DIRECTORIES = (0x8769, 0x8825)  # of EXIF and of GPS
HEADER = b"Exif\0\0"
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


def orientation(exif: bytes, xmp: bytes = b"") -> tuple[int, str | None]:
    """Value of the tag, 1 to 8, and what is wrong with the metadata where they cannot say.

    Only the tag itself is read: Pillow reads all entries, and fails at a damaged one that has
    nothing to do with it.
    """
    value, trouble = _of_exif(exif)
    if value is None and (found := XMP.search(xmp)):
        return int(found[1]), None
    return value or UPRIGHT, trouble


def _of_exif(exif: bytes) -> tuple[int | None, str | None]:
    """As ``orientation``; None where EXIF does not say."""
    while exif.startswith(HEADER):  # some programs write it twice
        exif = exif[len(HEADER) :]
    if not exif.strip(b"\0"):
        return None, None
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        return None, "its EXIF cannot be read, so that it is not turned"
    damaged = False
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        found: tuple[int | None, str | None] = (None, None)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", exif, place)
            if tag == ORIENTATION:
                found = _checked(_value(exif, place + 8, order, kind, count))
            elif not _is_inside(exif, place + 8, order, tag, SIZES.get(kind, 0) * count):
                damaged = True
    except struct.error:
        return None, "its EXIF is cut off, so that it is not turned"
    return (found[0], found[1] or "a part of its EXIF is damaged") if damaged else found


def _is_inside(exif: bytes, place: int, order: str, tag: int, size: int) -> bool:
    """Whether what an entry points to is inside the block."""
    (start,) = struct.unpack_from(order + "I", exif, place)
    if tag in DIRECTORIES:
        return start + 2 <= len(exif)
    return size <= 4 or start + size <= len(exif)


def _value(exif: bytes, place: int, order: str, kind: int, count: int) -> int | None:
    """The number of an entry; None where it holds none."""
    form = {BYTE: "B", SHORT: "H", LONG: "I"}.get(kind)
    if form is None or count < 1:
        return None
    return struct.unpack_from(order + form, exif, place)[0]


def _checked(value: int | None) -> tuple[int | None, str | None]:
    if value == 0:  # cameras without a sensor for it
        return None, None
    if value == UPRIGHT or value in TURNS:
        return value, None
    stated = "no number" if value is None else str(value)
    return None, f"its EXIF has {stated} for the orientation, so that it is not turned"
