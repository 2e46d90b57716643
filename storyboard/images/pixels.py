"""Pixels of any of Pillow's modes as RGB with 8 bits a channel: shades, transparency, colours."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageCms

from storyboard.images.clean import CleanFile, Damaged

SIXTEEN_BITS = 65535
# largest values that greys with a decimal point, or of 32 bits, are written for
FLOAT_RANGES = (1.0, 255.0, 65535.0)
INTEGER_RANGES = (255, 65535, 2**31 - 1, 2**32 - 1)
OVERSHOOT = 1.05  # of a range, which sharpening and scaling leave behind
DARK = 16  # below that part of its range a picture is nearly black
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339  # TIFF's tags
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile -> Pillow's mode


@dataclass
class Reading:
    """How the pixels of a file are to be read, and what was found doing so.

    Attributes:
        icc: The colour profile; empty for sRGB.
        transparent, depth: As in ``CleanFile``.
        tiff: Values of TIFF's tags.
        notes: What was repaired or assumed, without repetitions.
    """

    icc: bytes = b""
    transparent: tuple[int, ...] = ()
    depth: int = 8
    tiff: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, clean: CleanFile) -> "Reading":
        return cls(clean.icc, clean.transparent, clean.depth, {}, list(clean.notes))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def to_rgb(image: Image.Image, reading: Reading) -> Image.Image:
    """``image`` in sRGB with 8 bits a channel, its transparent parts on white.

    Raises:
        Damaged: Its shades are of no range that could be shown.
    """
    mask = _opacity(image, reading)
    image = eight_bits(image, reading)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if mask is None and has_alpha:
        mask = image.convert("RGBA").getchannel("A")

    colours = _in_srgb(image, reading)
    if mask is None:
        return colours
    colours.putalpha(mask)
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _opacity(image: Image.Image, reading: Reading) -> Image.Image | None:
    """255 where the colour is not the transparent one; None where no colour is transparent."""
    if not reading.transparent:
        return None
    values = np.asarray(image)
    if image.mode == "RGB":
        # Pillow keeps the higher byte of 16 bits
        shift = max(0, reading.depth - 8)
        key = [value >> shift & 255 for value in reading.transparent]
        equal = (values == np.array(key, np.uint8)).all(-1)
    elif image.mode == "1":
        equal = values == bool(reading.transparent[0] & 1)
    else:
        largest = 2**reading.depth - 1
        shown = SIXTEEN_BITS if image.mode.startswith("I") else 255
        equal = values == reading.transparent[0] * shown // largest
    return Image.fromarray(np.where(equal, 0, 255).astype(np.uint8))


def eight_bits(image: Image.Image, reading: Reading) -> Image.Image:
    """``image``; greys of 16 or 32 bits or in floating point scaled to mode L.

    Whole numbers are taken for 16 bits, or for those that the file states; others, and those of 32
    bits, for the smallest of FLOAT_RANGES or INTEGER_RANGES that holds them all.

    Raises:
        Damaged: There are negative numbers, too large ones, NaN or infinity.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    bits = reading.tiff.get(BITS, 0)
    if bits == 32 and image.mode == "I" and reading.tiff.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    top = _top(high, image.mode, reading)
    if top is None or not low >= 0:  # the condition is true for NaN
        raise Damaged(
            f"its greys go from {low:g} to {high:g}, where 0 to 65535 can be shown: "
            "scale them and save it again"
        )
    if top > FLOAT_RANGES[0] and high < top / DARK and (image.mode == "F" or bits == 32):
        reading.note(f"its greys go up to {high:g} and are taken for 0 to {top:g}")

    if image.mode == "F":
        scaled = (np.minimum(values, top) / top * 255).round()
    else:
        scaled = values // 257 if top == SIXTEEN_BITS else values.astype(np.float64) * 255 // top
    if reading.tiff.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns those of 8 bits alone
        scaled = 255 - scaled
    return Image.fromarray(scaled.astype(np.uint8))


def _top(high: float, mode: str, reading: Reading) -> float | None:
    """The number that white is written as, where the largest there is is ``high``."""
    bits = reading.tiff.get(BITS, 0)
    if mode == "F":
        return next((top for top in FLOAT_RANGES if high <= top * OVERSHOOT), None)
    if bits == 32:
        return next((top for top in INTEGER_RANGES if high <= top), None)
    if bits == 16 and reading.tiff.get(SAMPLE_FORMAT) == SIGNED:
        return 2**15 - 1
    return 2**bits - 1 if 8 < bits < 16 else SIXTEEN_BITS


def _in_srgb(image: Image.Image, reading: Reading) -> Image.Image:
    """Colours of ``image`` in RGB, by its profile; without its transparency."""
    plain = image.copy()
    plain.info.pop("transparency", None)
    if not reading.icc:
        return plain.convert("RGB")
    if plain.mode in ("P", "PA", "RGBA", "RGBX", "YCbCr", "HSV"):
        plain = plain.convert("RGB")
    elif plain.mode in ("1", "LA"):
        plain = plain.convert("L")

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(reading.icc))
        space = profile.profile.xcolor_space.strip()
        if SPACES.get(space) != plain.mode:
            reading.note(
                f"its colour profile is for {space or 'nothing'} and it is {plain.mode}: "
                "taken as sRGB"
            )
            return plain.convert("RGB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(plain, profile, srgb, outputMode="RGB")
    # what ImageCms raises for a damaged profile, or for one whose tables lack what is asked for
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        reading.note("its colour profile cannot be read, so that it is taken as sRGB")
        return plain.convert("RGB")
    assert converted is not None  # None is for conversion in place
    return converted


def tags(image: Image.Image) -> dict[int, int]:
    """The numbers of a TIFF that say how its greys are stored; of lists the first."""
    directory = getattr(image, "tag_v2", {})
    found = {tag: directory.get(tag) for tag in (PHOTOMETRIC, BITS, SAMPLE_FORMAT)}
    firsts = {tag: value[0] if isinstance(value, tuple) else value for tag, value in found.items()}
    return {tag: value for tag, value in firsts.items() if isinstance(value, int)}
