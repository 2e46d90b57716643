"""Any picture that Pillow reads as an upright, opaque one in sRGB with 8 bits a channel."""

import io
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RANGES = (1.0, 255.0, 65535.0)  # largest values that greys with a decimal point are written for
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
UNREADABLE = (  # what Pillow raises for a broken file, by format and where it is broken
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


def normalise(source: Path, stem: Path) -> Path:
    """Write ``source`` as ``stem`` with a suffix; returns the path.

    Bytes are copied where nothing has to change. Whether a truncated file is an error is for the
    caller to set (``compat.pillow``): the switch is shared by threads.

    Raises:
        UNREADABLE: The file is broken, or has more pixels than Pillow's limit allows.
    """
    with Image.open(source) as image:
        image.load()
        if _is_normal(image):
            written = stem.with_suffix(".png" if image.format == "PNG" else ".jpg")
            shutil.copyfile(source, written)
            return written
        profile = image.info.get("icc_profile")
        turned = eight_bits(upright(image))

    opaque = on_white(turned)
    if profile and opaque.mode in ("RGB", "L", "CMYK"):
        opaque = to_srgb(opaque, profile)
    written = stem.with_suffix(".png")
    opaque.convert("RGB").save(written, pnginfo=None, icc_profile=None, exif=b"")
    return written


def _is_normal(image: Image.Image) -> bool:
    return (
        image.mode == "RGB"
        and image.format in ("PNG", "JPEG")
        and image.getexif().get(ORIENTATION, 1) == 1
        and "icc_profile" not in image.info
    )


def upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF asks.

    ``ImageOps.exif_transpose`` also writes the EXIF anew, and fails at a damaged entry that has
    nothing to do with it.
    """
    orientation = image.getexif().get(ORIENTATION)
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def on_white(image: Image.Image) -> Image.Image:
    """``image`` without transparency, in mode RGBA where it had some."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """``image``, whose colours are those of the ICC ``profile``, in sRGB.

    Raises:
        ValueError: The profile cannot be read.
    """
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its colour profile cannot be read ({error})") from error
    assert converted is not None  # None is for conversion in place
    return converted


def eight_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8 bits a channel: greys of 16 or 32 bits or in floating point in mode L.

    Whole numbers are taken for 16 bits; others for the smallest of RANGES that holds them all.

    Raises:
        ValueError: There are negative numbers, larger ones than 16 bits hold, or NaN or infinity.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= RANGES[-1]):  # the condition is false for NaN too
        raise ValueError(f"its greys go from {low:g} to {high:g}, where 0 to 65535 can be shown")
    if image.mode == "F":
        top = next(top for top in RANGES if high <= top)
        return Image.fromarray((values / top * 255).round().astype(np.uint8))
    return Image.fromarray((values // 257).astype(np.uint8))
