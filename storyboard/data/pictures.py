"""Any picture file as a PNG or JPEG that is upright, opaque, in sRGB with 8 bits a channel."""

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
    if picture.content is None:
        picture.image.save(written)
    else:
        written.write_bytes(picture.content)
    return NormalisedPicture(written, picture.notes)
