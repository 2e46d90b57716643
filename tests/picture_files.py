"""Picture files as tests need them: encoded in memory, taken apart and damaged."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from storyboard import images
from storyboard.errors import PictureError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION, RESOLUTION, MAKE, GPS = 0x0112, 0x011A, 0x010F, 0x8825
SHORT, LONG, TEXT, RATIONAL = 3, 4, 2, 5


def refused(source, *arguments) -> str:
    """Why ``source`` is refused."""
    with pytest.raises(PictureError) as error:
        images.read(source, *arguments)
    assert "\n" not in str(error.value)
    return error.value.reason


def encoded(image: Image.Image, form: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), int)


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", right)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], len(PNG_SIGNATURE)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        found.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def with_chunk(content: bytes, kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A PNG with one more chunk after its header."""
    header = len(PNG_SIGNATURE) + 25
    return content[:header] + chunk(kind, data, checksum) + content[header:]


def with_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    segment = struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return content[:2] + segment + content[2:]


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of (tag, type, count, four bytes of value or offset), little endian."""
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)


def short(value: int) -> bytes:
    return struct.pack("<HH", value, 0)


TURNED = (ORIENTATION, SHORT, 1, short(6))


def tiff(values: np.ndarray, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed grey TIFF (TIFF 6.0) of (h, w) values in their own type, little endian."""
    height, width = values.shape
    data = values.tobytes()
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,  # uncompressed
        262: photometric,
        273: 8,  # where the pixels begin
        277: 1,
        278: height,
        279: len(data),
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHII", tag, LONG, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """A profile with red and green exchanged: what is stored as red shows green."""
    profile = srgb().replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ")
    return profile.replace(b"tXYZ", b"gXYZ")
