"""Pillow's decoders, bounded: which are tried, for how many pixels, and how many at once."""

import contextlib
import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from storyboard.compat import pillow
from storyboard.images import exif, formats, pixels, sizes
from storyboard.images.clean import CleanFile, Damaged
from storyboard.images.pixels import Reading

LARGE = 50_000_000  # pixels: larger pictures are scaled down to it
SHARED = 16_000_000  # pixels: of larger pictures one is open at a time, however many threads read
BAND = 8_000_000  # pixels of a large picture that are converted at a time
AVIF_HEADER = 1 << 16  # bytes in which its parts are listed
LONGEST_REASON = 200  # characters of a decoder's own words
_one_large_picture = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """A picture in RGB, not turned yet.

    Attributes:
        orientation: EXIF's number for how it is to be turned.
        is_as_stored: Whether the file's own pixels are RGB with 8 bits and nothing was done to
            them, nor is to be.
    """

    image: Image.Image
    orientation: int
    is_as_stored: bool
    notes: list[str]


def decode(clean: CleanFile, names: Sequence[str], suffix: str) -> Decoded:
    """Decode a file by one of Pillow's formats ``names``.

    Raises:
        Damaged: None of them can read it whole, or it has too many pixels.
    """
    try:
        with pillow.reading(), _opened(clean, names, suffix) as image:
            size = image.size
            if not clean.size:
                sizes.check(size, sizes.limit_of(image))
            is_large = size[0] * size[1] > SHARED
            with _one_large_picture if is_large else contextlib.nullcontext():
                return _converted(clean, image)
    except Damaged:
        raise
    except Image.DecompressionBombError as error:  # of the header, before anything is decoded
        raise Damaged(f"it has more pixels than can be read ({error}): save it smaller") from error
    except Exception as error:  # decoders raise anything at all, by format and place of the damage
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        raise Damaged(f"it cannot be decoded ({reason}): get it again") from error


def _opened(clean: CleanFile, names: Sequence[str], suffix: str) -> Image.Image:
    for plugin in formats.PLUGINS:
        if plugin.name in names:
            pillow.register(plugin.module, plugin.register)
    try:
        return Image.open(io.BytesIO(clean.content), formats=list(names))
    except UnidentifiedImageError as error:
        raise Damaged(formats.unidentified(clean.content, suffix)) from error
    except ValueError:
        # libavif refuses a picture whose EXIF is damaged; AVIF is turned by a property of its own
        start = clean.content.find(b"Exif", 0, AVIF_HEADER)
        if clean.content[4:8] != b"ftyp" or start < 0:
            raise
        content = clean.content[:start] + b"none" + clean.content[start + 4 :]
        clean.notes.append("its EXIF is damaged and was not used")
        return Image.open(io.BytesIO(content), formats=["AVIF"])


def _converted(clean: CleanFile, image: Image.Image) -> Decoded:
    size, factor = image.size, _factor(image)
    reading = Reading.of(clean)
    if factor > 1:
        # scaled by JPEG's decoder; of other formats nothing
        image.draft(image.mode, (-(-size[0] // factor), -(-size[1] // factor)))
    image.load()

    metadata = image.info
    reading.icc = clean.icc or metadata.get("icc_profile") or b""
    reading.tiff = pixels.tags(image)
    orientation, trouble = exif.orientation(
        clean.exif or metadata.get("exif") or b"", clean.xmp or _bytes(metadata.get("xmp"))
    )
    if trouble:
        reading.note(trouble)
    is_rgb = image.mode == "RGB" and "transparency" not in metadata

    converted = _in_bands(image, reading)
    if converted.size != size:
        smaller = f"{converted.width} x {converted.height}"
        reading.note(f"it has {size[0]} x {size[1]} pixels and was scaled down to {smaller}")
    if not clean.size and _has_more_pictures(image):
        reading.note("it holds several pictures: the first is used")
    is_as_stored = (
        is_rgb
        and clean.depth == 8
        and converted.size == size
        and orientation == exif.UPRIGHT
        and not (reading.icc or reading.transparent)
    )
    return Decoded(converted, orientation, is_as_stored, reading.notes)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _factor(image: Image.Image) -> int:
    """By how much the sides are to be divided."""
    return math.ceil(math.sqrt(image.width * image.height / LARGE))


def _in_bands(image: Image.Image, reading: Reading) -> Image.Image:
    """``image`` in RGB, scaled down to at most LARGE pixels.

    Memory is that of the picture as it is stored, of a band and of the result.
    """
    factor = _factor(image)
    is_deep = image.mode.startswith(("I", "F"))  # all pixels say together what white is
    if factor > 1 and is_deep:
        raise Damaged(f"it has more than {LARGE:,} pixels of more than 8 bits: save it smaller")
    if is_deep or image.width * image.height <= BAND:
        return pixels.to_rgb(image, reading)
    result = Image.new("RGB", [-(-side // factor) for side in image.size])
    rows = max(1, BAND // image.width // factor) * factor
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(pixels.to_rgb(band, reading).reduce(factor), (0, top // factor))
    return result


def _has_more_pictures(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except Exception:  # EOFError where there is none; the others may be damaged
        return False
    return True
