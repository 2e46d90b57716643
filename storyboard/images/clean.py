"""A picture file taken apart: its pixels as they are stored, and what its metadata say of them."""

from dataclasses import dataclass, field


class Damaged(Exception):
    """The picture cannot be read; the message is the reason, and the mend where there is one."""


@dataclass
class CleanFile:
    """A picture file without metadata, which Pillow's readers then cannot fail at.

    Attributes:
        content: A file of the same format with the same pixels.
        size: Width and height in pixels; None where only Pillow knows them.
        icc, exif, xmp: The metadata that pixels are to be read by; empty where there are none.
        transparent: The colour that is transparent, as it is stored: one number for greys, three
            for RGB.
        depth: Bits a channel.
        notes: What is damaged, without harm to the pixels.
    """

    content: bytes
    size: tuple[int, int] | None = None
    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    transparent: tuple[int, ...] = ()
    depth: int = 8
    notes: list[str] = field(default_factory=list)
