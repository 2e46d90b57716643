"""What Pillow does not do by itself: keep the shades of more than 8 bits, and turn a picture whose EXIF is damaged elsewhere."""

import struct

from PIL import Image

RANGES = (1.0, 255.0, 65535.0)  # largest values that numbers with a decimal point are written for
ORIENTATION = 0x0112  # EXIF's tag, and what each value asks for (Exif 2.32, 4.6.4.A)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNREADABLE = (  # what Pillow raises over a broken file, by format and place
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF asks.

    ``ImageOps.exif_transpose`` also writes the EXIF anew, and fails over a damaged entry that has nothing to do with it.
    """
    turn = TURNS.get(image.getexif().get(ORIENTATION))
    return image if turn is None else image.transpose(turn)


def eight_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8 bits a channel: grey of 16 or 32 bits, or of numbers with a decimal point, is brought to mode L.

    Whole numbers are taken for 16 bits; others for the smallest of RANGES that holds them all.

    Raises:
        ValueError: There are negative numbers, larger ones than 16 bits hold, or such as are not finite.
    """
    import numpy as np

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= RANGES[-1]):  # not so, too, for what is not a number
        raise ValueError(f"its greys go from {low:g} to {high:g}, where 0 to 65535 can be shown")
    if image.mode == "F":
        top = next(top for top in RANGES if high <= top)
        return Image.fromarray((values / top * 255).round().astype(np.uint8))
    return Image.fromarray((values // 257).astype(np.uint8))
