"""Any picture file as a PNG or JPEG that is upright, opaque, in sRGB with 8 bits a channel."""

import io
from dataclasses import dataclass
from pathlib import Path

from storyboard import images


@dataclass(frozen=True)
class NormalisedPicture:
    """Where a picture was written, and what was repaired or assumed in reading it."""

    path: Path
    notes: tuple[str, ...]


def normalise(source: Path, stem: Path, name: str | None = None) -> NormalisedPicture:
    """Write ``source`` as ``stem`` with a suffix.

    The pixels of an RGB PNG or JPEG stay as they are stored; metadata are left out of all.

    Args:
        name: What messages call it; the path, where None.

    Raises:
        PictureError: It cannot be read.
    """
    picture = images.read(source, name)
    written = stem.with_suffix(picture.suffix)
    content = picture.content
    if content is None:
        encoded = io.BytesIO()  # Pillow's own writing to a file may hide why a disk refuses it
        picture.image.save(encoded, "PNG")
        content = encoded.getvalue()
    written.write_bytes(content)
    return NormalisedPicture(written, picture.notes)
