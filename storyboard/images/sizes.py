"""How many pixels a picture may have, so that memory is bounded here and in later stages."""

from PIL import Image

from storyboard.images.clean import Damaged

MAX_PIXELS = 179_000_000  # of a PNG or JPEG; about Pillow's own limit
MAX_PIXELS_OTHERS = 64_000_000  # whose decoders need several times the memory of the picture
MAX_PIXELS_SLOW = 24_000_000  # of JPEG 2000, that it takes seconds and no minutes
MAX_PIXELS_PYTHON = 2_100_000  # that a decoder in Python takes seconds for
SLOW, PYTHON = {"jpeg2k"}, {"qoi", "ppm_plain", "bmp_rle"}  # Pillow's decoders
MAX_RATIO = 50  # of the longer side to the shorter: later stages scale the shorter one up


def limit_of(image: Image.Image) -> int:
    """Pixels that ``image``, opened and not decoded, may have; neither PNG nor JPEG."""
    decoders = {tile[0] for tile in getattr(image, "tile", [])}
    if decoders & PYTHON:
        return MAX_PIXELS_PYTHON
    return MAX_PIXELS_SLOW if decoders & SLOW else MAX_PIXELS_OTHERS


def check(size: tuple[int, int], limit: int = MAX_PIXELS) -> None:
    """Raise Damaged unless a picture of ``size``, width and height, may be decoded."""
    width, height = size
    if not width or not height:
        raise Damaged("it has no pixels: get it again")
    if Image.MAX_IMAGE_PIXELS:
        limit = min(limit, 2 * Image.MAX_IMAGE_PIXELS)  # where Pillow raises
    if width * height > limit:
        raise Damaged(
            f"it has {width} x {height} pixels, where {limit:,} can be read: save it smaller"
        )
    if max(size) > MAX_RATIO * min(size):
        raise Damaged(
            f"it has {width} x {height} pixels, more than {MAX_RATIO} times as long as wide: "
            "cut it to pieces"
        )
