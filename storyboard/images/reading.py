"""The one way to open a picture file: whole, upright, opaque, in sRGB with 8 bits a channel."""

import stat
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from storyboard.errors import PictureError
from storyboard.images import decoding, exif, formats, jpeg, png
from storyboard.images.clean import CleanFile, Damaged

MAX_BYTES = 1 << 28  # of a file
LONGEST_NAME = 300
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Picture:
    """A picture, read.

    Attributes:
        image: In mode RGB, upright, opaque, in sRGB.
        notes: What was repaired or assumed, a sentence each without a full stop.
        suffix: ``.png`` or ``.jpg`` where ``content`` is there.
        content: A PNG or JPEG without metadata that shows the same, its pixels stored as they were;
            None where anything had to be done to them.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    suffix: str = ".png"
    content: bytes | None = None


def read(source: Path | str | bytes, name: str | None = None) -> Picture:
    """Read a picture file, or its bytes, to its last pixel.

    Its content decides what it is, not its suffix. Of an animation the first picture is read.
    Damaged metadata cost a note, damaged pixels the picture.

    Args:
        name: What messages call it; the path, where None.

    Raises:
        PictureError: It is no picture, is damaged, or has more pixels than there may be.
    """
    name = _shown(name or ("A picture" if isinstance(source, bytes) else str(source)))
    try:
        content = source if isinstance(source, bytes) else content_of(Path(source))
        suffix = "" if isinstance(source, bytes) else Path(source).suffix.lower()
        return _read(content, suffix)
    except Damaged as error:
        reason = str(error)
        message = f"{name} cannot be read as a picture: {reason}."
        raise PictureError(message, name, reason) from error


def _shown(name: str) -> str:
    """``name`` in one line of bounded length; it may hold bytes that are no text."""
    name = " ".join(name.encode("utf-8", "replace").decode().split())
    return name if len(name) <= LONGEST_NAME else f"{name[:100]}...{name[-100:]}"


def content_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        Damaged: It cannot be opened, is no regular file, or has too many bytes.
    """
    if reason := irregular(path):
        raise Damaged(reason)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Damaged(
                f"it has {size / 1e6:,.0f} MB, where {MAX_BYTES / 1e6:,.0f} can be read: "
                "save it smaller"
            )
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"it cannot be opened ({error.strerror})") from error


def irregular(path: Path) -> str | None:
    """Why ``path`` cannot be opened as a file; None where it can.

    Opening a named pipe waits until something writes to it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        is_link = path.is_symlink()
        return "it is a link to a file that is not there" if is_link else "there is no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"it cannot be opened ({getattr(error, 'strerror', None) or error})"
    kind = next((title for is_kind, title in KINDS if is_kind(mode)), None)
    return kind and f"it is {kind}, not a file"


def _read(content: bytes, suffix: str) -> Picture:
    if content.startswith(formats.PNG_SIGNATURE):
        clean, names, kind = png.cleaned(content), ("PNG",), ".png"
    elif content.startswith(formats.JPEG_SIGNATURE):
        clean, names, kind = jpeg.cleaned(content), ("JPEG",), ".jpg"
    elif reason := formats.foreign(content, suffix):
        raise Damaged(reason)
    else:
        clean, names, kind = CleanFile(content), formats.candidates(content, suffix), None

    decoded = decoding.decode(clean, names, suffix)
    if kind and decoded.is_as_stored:
        return Picture(decoded.image, tuple(decoded.notes), kind, clean.content)
    image = decoded.image
    if decoded.orientation in exif.TURNS:
        image = image.transpose(exif.TURNS[decoded.orientation])
    return Picture(image, tuple(decoded.notes))
