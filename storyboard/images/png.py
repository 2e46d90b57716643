"""PNG: chunks and their checksums (https://www.w3.org/TR/png-3/).

Pillow compares no checksum of the chunks of pixels, so that damage among them would go unseen, and
fails at damaged or very long texts, which have nothing to do with them.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from storyboard.images import sizes
from storyboard.images.clean import CleanFile, Damaged
from storyboard.images.formats import PNG_SIGNATURE

PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # a damaged one costs the picture
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
EXIF_KEYWORD = b"Raw profile type exif\0"  # of ImageMagick, before PNG had a chunk for it
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
MAX_CHUNKS = 300_000
MAX_PROFILE = 1 << 22  # bytes of a colour profile, unpacked
CUT = "it is cut off: get it again"
MAX_TEXT = 1 << 20  # bytes of texts, unpacked; of a longer one Pillow refuses the picture
SLICE = 1 << 16  # bytes of packed pixels that are unpacked at a time, to 1,032 times as many
GREY, RGB, PALETTE = 0, 2, 3  # types of colour in IHDR
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}
# left, top, and steps to the right and down, of the passes of an interlaced picture
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def cleaned(content: bytes) -> CleanFile:
    """``content``, a PNG, without any chunk but those of its (first) picture.

    Raises:
        Damaged: A chunk of the picture is damaged or missing.
    """
    chunks: dict[bytes, list[bytes]] = {}
    damaged: set[bytes] = set()
    for kind, data, whole in _chunks(content):
        if not whole and (kind in PIXELS or not _is_known_ancillary(kind)):
            raise Damaged(f"its chunk {_shown(kind)} is damaged (wrong checksum): get it again")
        if whole:
            chunks.setdefault(kind, []).append(data)
        else:
            damaged.add(kind)
    width, height, depth, colour, interlaced = _header(chunks)
    sizes.check((width, height))
    expected = _unpacked_size(width, height, depth * CHANNELS[colour], interlaced)
    _check_pixels(chunks[b"IDAT"], expected)

    notes = [f"its chunk {_shown(kind)} is damaged and was not used" for kind in sorted(damaged)]
    if b"IEND" not in chunks:
        notes.append("its end is missing, all its pixels are there")
    if _have_too_much_text(chunks):
        notes.append("its texts are longer than a megabyte and were not used")
    if any(int.from_bytes(data[:4], "big") > 1 for data in chunks.get(b"acTL", [])):
        notes.append("it is animated: the first picture is used")

    transparency = b"".join(chunks.get(b"tRNS", [])[:1])
    kept = [(b"IHDR", chunks[b"IHDR"][0])]
    if colour == PALETTE:
        palette = chunks.get(b"PLTE", [b""])[0][: 3 * 256]
        if len(palette) < 3:
            raise Damaged("its palette is missing: get it again")
        kept.append((b"PLTE", palette))
        if transparency:
            kept.append((b"tRNS", transparency[: len(palette) // 3]))
    kept += [(b"IDAT", data) for data in chunks[b"IDAT"]]
    return CleanFile(
        b"".join([PNG_SIGNATURE, *(_chunk(kind, data) for kind, data in [*kept, (b"IEND", b"")])]),
        (width, height),
        icc=_profile(chunks, notes),
        exif=chunks.get(b"eXIf", [b""])[0] or _exif_of_text(chunks),
        xmp=_xmp(chunks),
        transparent=_transparent(transparency, colour),
        depth=depth,
        notes=notes,
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Type and data of each chunk up to IEND, and whether the checksum is right.

    A chunk that is cut off ends them where it is no part of the picture.
    """
    place, count = len(PNG_SIGNATURE), 0
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            if kind == b"IEND" or _is_known_ancillary(kind):
                return
            raise Damaged(CUT)
        checksum = int.from_bytes(content[end : end + 4], "big")
        yield (
            kind,
            content[place + 8 : end],
            zlib.crc32(memoryview(content)[place + 4 : end]) == checksum,
        )
        if kind == b"IEND":
            return
        place, count = end + 4, count + 1
        if count > MAX_CHUNKS:
            raise Damaged(f"it has more than {MAX_CHUNKS} chunks: save it again")


def _is_known_ancillary(kind: bytes) -> bool:
    return kind in (
        b"cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT eXIf tIME tEXt zTXt iTXt "
        b"acTL fcTL fdAT caBX oFFs sCAL pCAL sTER vpAg gIFg gIFx dSIG orNT prVW"
    ).split(b" ")


def _header(chunks: dict[bytes, list[bytes]]) -> tuple[int, int, int, int, bool]:
    """Width, height, bits a channel, type of colour, and whether the picture is interlaced."""
    unknown = [
        kind for kind in chunks if kind[:1].isupper() and kind not in (*PIXELS, b"tRNS", b"DDAT")
    ]
    if unknown:
        raise Damaged(f"it has a chunk {_shown(unknown[0])}, which no PNG has: save it again")
    headers = chunks.get(b"IHDR", [])
    if len(headers) != 1 or len(headers[0]) != 13:
        raise Damaged("its header is damaged: get it again")
    if b"IDAT" not in chunks:
        raise Damaged("it holds no pixels: get it again")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", headers[0])
    if colour not in CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise Damaged("its header is damaged: get it again")
    return width, height, depth, colour, bool(interlace)


def _unpacked_size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of all rows of ``bits`` a pixel, each with its filter's number."""
    size = 0
    for left, top, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return size


def _check_pixels(data: list[bytes], expected: int) -> None:
    """Raise Damaged unless ``data`` unpack to ``expected`` bytes, whose checksum is right."""
    unpacker, size = zlib.decompressobj(), 0
    try:
        for part in data:
            for start in range(0, len(part), SLICE):
                size += len(unpacker.decompress(part[start : start + SLICE]))
                if size > expected:
                    raise Damaged("it holds more pixels than its header says: get it again")
    except zlib.error as error:
        raise Damaged(f"its pixels are damaged ({error}): get it again") from error
    if size < expected:
        raise Damaged(CUT)


def _text(kind: bytes, data: bytes) -> bytes:
    """The text of a chunk, unpacked, up to one byte more than MAX_TEXT."""
    _, _, text = data.partition(b"\0")
    if kind == b"iTXt":
        is_packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        is_packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
    if not is_packed:
        return text[: MAX_TEXT + 1]
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT + 1)
    except zlib.error:
        return b""


def _have_too_much_text(chunks: dict[bytes, list[bytes]]) -> bool:
    size = 0
    for kind in TEXTS:
        for data in chunks.get(kind, []):
            size += len(_text(kind, data))
            if size > MAX_TEXT:
                return True
    return False


def _exif_of_text(chunks: dict[bytes, list[bytes]]) -> bytes:
    """EXIF in hexadecimal, after a line with its name and one with its length."""
    for kind in TEXTS:
        for data in chunks.get(kind, []):
            if data.startswith(EXIF_KEYWORD):
                lines = _text(kind, data).split(b"\n", 3)
                digits = re.sub(rb"[^0-9a-fA-F]", b"", lines[-1])
                return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    return b""


def _profile(chunks: dict[bytes, list[bytes]], notes: list[str]) -> bytes:
    """The ICC profile, unpacked; a damaged one is noted."""
    if b"iCCP" not in chunks:
        return b""
    _, _, packed = chunks[b"iCCP"][0].partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        profile = b""
    if not unpacker.eof:
        notes.append("its colour profile is damaged, so that it is taken as sRGB")
        return b""
    return profile


def _xmp(chunks: dict[bytes, list[bytes]]) -> bytes:
    texts = chunks.get(b"iTXt", [])
    found = next((data for data in texts if data.startswith(XMP_KEYWORD)), b"")
    return _text(b"iTXt", found)


def _transparent(data: bytes, colour: int) -> tuple[int, ...]:
    numbers = {GREY: 1, RGB: 3}.get(colour, 0)
    if not data or not numbers:
        return ()
    if len(data) < 2 * numbers:
        raise Damaged("its transparent colour is cut off: get it again")
    return struct.unpack_from(f">{numbers}H", data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _shown(kind: bytes) -> str:
    return kind.decode("latin-1") if kind.isalpha() else kind.hex()
