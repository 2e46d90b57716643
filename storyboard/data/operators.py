"""Data-Juicer operators that it does not have itself: what pixels say.

Importing this module registers them; recipes then call them by name like any other operator.
Nothing is downloaded. ``dj-process`` takes this file too, by ``custom_operator_paths``, so it
imports nothing of this package. Near-duplicates are found in ``near_duplicates.py``; operators that
read pictures by a network are in ``model_operators.py``.

To add an operator:

1. Write a class here that derives from Data-Juicer's ``Filter``, ``Mapper`` or ``Deduplicator``
   and register it by ``@OPERATORS.register_module("name_in_recipes")``. A filter's
   ``compute_stats_single`` writes what it measures into ``sample[Fields.stats]``; its
   ``process_single`` says whether the row stays. Take ``context`` and open the picture by
   ``row_picture``, so that a row's picture is decoded once for all operators.
2. Name parameters that are limits ``min_...`` and ``max_...``: the report of dropped rows lists
   them beside what was measured.
3. Add its name to ``operator_list.py``: what is not listed as safe does not run.
4. Add it with its parameters to ``recipes/sample.yaml`` or to a recipe of your own, and test it in
   ``tests/test_operators.py``.
"""

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from data_juicer.utils.mm_utils import load_data_with_context, load_image
from PIL import Image

SIDE = 256  # pixels of the shorter side at which a picture is measured
LONGEST_SIDE = 4096  # pixels of the longer side there: a picture of 5,000 x 1 would fill gigabytes
LEAST_RANGE = 8  # of luminance, so that an even picture does not divide by zero
OCTAVES = 4  # of which the finest is compared with the others
LEAST_BAND = 4  # levels of the strongest octave, so that an even picture does not divide by zero
CELL = 16  # pixels of a side of the cells that are empty or not
CONTENT_RANGE = 16  # levels of luminance in a cell that is not empty


def row_picture(op, sample: dict, context: bool) -> Image.Image:
    """The row's picture in RGB, decoded unless an operator before has done so."""
    _, images = load_data_with_context(
        sample, context, sample[op.image_key][:1], load_image, mm_bytes_key=op.image_bytes_key
    )
    return images[sample[op.image_key][0]]


@OPERATORS.register_module("image_sharpness_filter")
class ImageSharpnessFilter(Filter):
    """Keeps pictures that have sharp edges somewhere.

    Sharpness is the 99th percentile of the gradient's magnitude over the luminance range (2nd to
    98th percentile), of the picture scaled so that its shorter side is 256, or its longer one 4096
    if that is less: about 0.05 for a blurred picture, over 0.2 for a drawing.

    Args:
        min_sharpness: Least sharpness to keep, 0 to 1.
    """

    def __init__(self, min_sharpness: float = 0.1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min_sharpness = min_sharpness

    def compute_stats_single(self, sample, context=False):
        if "image_sharpness" not in sample[Fields.stats]:
            sample[Fields.stats]["image_sharpness"] = _sharpness(row_picture(self, sample, context))
        return sample

    def process_single(self, sample):
        return bool(sample[Fields.stats]["image_sharpness"] >= self.min_sharpness)


def _luminance(image: Image.Image) -> Image.Image:
    """The luminance, scaled to SIDE or LONGEST_SIDE, whichever makes it smaller."""
    scale = min(SIDE / min(image.size), LONGEST_SIDE / max(image.size))
    size = [max(8, round(side * scale)) for side in image.size]
    return image.convert("L").resize(size, Image.Resampling.BICUBIC)


def _sharpness(image: Image.Image) -> float:
    image = _luminance(image)
    down, right = np.gradient(np.asarray(image, np.float32))
    # the root of a percentile is the percentile of the roots
    edge = np.percentile(down * down + right * right, 99) ** 0.5

    counts = np.cumsum(image.histogram())
    low, high = np.searchsorted(counts, np.multiply([0.02, 0.98], image.width * image.height))
    return float(edge / max(high - low, LEAST_RANGE))


@OPERATORS.register_module("image_detail_filter")
class ImageDetailFilter(Filter):
    """Keeps pictures that have as fine detail as their size has room for.

    Detail is how strong the finest octave is beside the strongest of the three coarser ones (99th
    percentiles of a Laplacian pyramid's magnitudes; Burt and Adelson 1983), of the picture scaled
    as for sharpness. Contrast and the number of edges cancel out: about 0.4 to 1 for drawings and
    photographs, under 0.3 for what was blown up from a third of the side. Detail across is the same
    of octaves in one direction, the one that has less: under 0.13 where a picture was moved.

    Args:
        min_detail: Least detail to keep, 0 to 1.
        min_detail_across: Least detail in the direction that has less, 0 to 1.
    """

    def __init__(self, min_detail: float = 0.28, min_detail_across: float = 0.13, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min_detail, self.min_detail_across = min_detail, min_detail_across

    def compute_stats_single(self, sample, context=False):
        stats = sample[Fields.stats]
        if "image_detail" not in stats:
            luminance = _luminance(row_picture(self, sample, context)).convert("F")
            stats["image_detail"] = _detail(luminance, (2, 2))
            across = (_detail(luminance, halved) for halved in ((2, 1), (1, 2)))
            stats["image_detail_across"] = min(across)
        return sample

    def process_single(self, sample):
        stats = sample[Fields.stats]
        return bool(
            stats["image_detail"] >= self.min_detail
            and stats["image_detail_across"] >= self.min_detail_across
        )


def _detail(luminance: Image.Image, halved: tuple[int, int]) -> float:
    """The finest octave beside the strongest coarser one, sides divided by ``halved`` for each."""
    strengths = []
    for _ in range(OCTAVES):
        size = [max(4, side // by) for side, by in zip(luminance.size, halved, strict=True)]
        half = luminance.resize(size, Image.Resampling.BOX)
        coarse = half.resize(luminance.size, Image.Resampling.BICUBIC)
        octave = np.abs(np.asarray(luminance) - np.asarray(coarse))
        strengths.append(float(np.percentile(octave, 99)))
        luminance = half
    return strengths[0] / max(*strengths[1:], LEAST_BAND)


@OPERATORS.register_module("image_content_filter")
class ImageContentFilter(Filter):
    """Keeps pictures that are not mostly empty.

    Content is the share of cells of 16 x 16 pixels, of the picture scaled as for sharpness, in
    which luminance differs by 16 levels or more: 0 for a blank page or a gradient, 0.04 for a
    figure of a fifth of the side on plain ground.

    Args:
        min_content: Least content to keep, 0 to 1.
    """

    def __init__(self, min_content: float = 0.1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min_content = min_content

    def compute_stats_single(self, sample, context=False):
        if "image_content" not in sample[Fields.stats]:
            sample[Fields.stats]["image_content"] = _content(row_picture(self, sample, context))
        return sample

    def process_single(self, sample):
        return bool(sample[Fields.stats]["image_content"] >= self.min_content)


def _content(image: Image.Image) -> float:
    luminance = np.asarray(_luminance(image))
    rows, columns = (max(1, side // CELL) for side in luminance.shape)
    inside = luminance[: rows * CELL, : columns * CELL]
    cells = inside.reshape(rows, inside.shape[0] // rows, columns, inside.shape[1] // columns)
    return float(np.mean(np.ptp(cells, axis=(1, 3)) >= CONTENT_RANGE))
