"""Data-Juicer operators that it does not have itself: sharpness, and near-duplicates.

Importing this module registers them; recipes then call them by name like any other operator.
Nothing is downloaded. ``dj-process`` takes this file too, by ``custom_operator_paths``, so it
imports nothing of this package.

To add an operator:

1. Write a class here that derives from Data-Juicer's ``Filter``, ``Mapper`` or ``Deduplicator``
   and register it by ``@OPERATORS.register_module("name_in_recipes")``. A filter's
   ``compute_stats_single`` writes what it measures into ``sample[Fields.stats]``; its
   ``process_single`` says whether the row stays. Take ``context`` and open the picture by
   ``_picture``, so that a row's picture is decoded once for all operators.
2. Name parameters that are limits ``min_...`` and ``max_...``: the report of dropped rows lists
   them beside what was measured.
3. Add its name to ``operator_list.py``: what is not listed as safe does not run.
4. Add it with its parameters to ``recipes/sample.yaml`` or to a recipe of your own, and test it in
   ``tests/test_operators.py``.
"""

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Deduplicator, Filter
from data_juicer.utils.constant import Fields
from data_juicer.utils.mm_utils import load_data_with_context, load_image
from PIL import Image

SHARPNESS_SIDE = 256  # pixels of the shorter side at which sharpness is measured
LONGEST_SIDE = 4096  # pixels of the longer side there: a picture of 5,000 x 1 would fill gigabytes
LEAST_RANGE = 8  # of luminance, so that an even picture does not divide by zero
THUMBNAIL = 24  # pixels of a side
BLOCKS = 4  # of a thumbnail, in each direction
LOW_CONTRAST = 0.15  # of a thumbnail's range, above which a difference always counts
ROUNDING = 0.01  # of means of blocks in fp32


def _picture(op, sample: dict, context: bool) -> Image.Image:
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
            sample[Fields.stats]["image_sharpness"] = _sharpness(_picture(self, sample, context))
        return sample

    def process_single(self, sample):
        return bool(sample[Fields.stats]["image_sharpness"] >= self.min_sharpness)


def _sharpness(image: Image.Image) -> float:
    image = image.convert("L")
    scale = min(SHARPNESS_SIDE / min(image.size), LONGEST_SIDE / max(image.size))
    image = image.resize(
        [max(8, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC
    )

    down, right = np.gradient(np.asarray(image, np.float32))
    # the root of a percentile is the percentile of the roots
    edge = np.percentile(down * down + right * right, 99) ** 0.5

    counts = np.cumsum(image.histogram())
    low, high = np.searchsorted(counts, np.multiply([0.02, 0.98], image.width * image.height))
    return float(edge / max(high - low, LEAST_RANGE))


@OPERATORS.register_module("image_near_deduplicator")
class ImageNearDeduplicator(Deduplicator):
    """Keeps the first of pictures that differ by recompression, scaling or exposure alone.

    Compares 24 x 24 colour thumbnails, exposure taken out: a changed expression moves some cell by
    far more than a new JPEG does. Only pictures of about the same mean luminance are compared, each
    with all others at once.

    Args:
        max_difference: Largest difference of any cell and channel that still counts as the same, 0
            to 255; in pictures of low contrast, such as thin lines on white, no more than 15 % of
            the thumbnail's range.
        max_exposure: Largest difference of the mean that is taken out, 0 to 255.
    """

    def __init__(self, max_difference: float = 24.0, max_exposure: float = 12.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_difference, self.max_exposure = max_difference, max_exposure

    def compute_hash(self, sample, context=False):
        if "thumbnail" not in sample:
            picture = _picture(self, sample, context)
            thumbnail = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            sample["thumbnail"] = thumbnail.tobytes().hex()
        return sample

    def process(self, dataset, show_num=0):
        thumbnails = [
            np.frombuffer(bytes.fromhex(raw), np.uint8) for raw in dataset["thumbnail"][:]
        ]
        first = self._first_of_same(np.stack(thumbnails).astype(np.float32))

        ids = dataset["id"][:]
        self.repeats = {ids[i]: ids[same] for i, same in enumerate(first) if same != i}
        kept = dataset.select([i for i, same in enumerate(first) if same == i])
        return kept.remove_columns("thumbnail"), {}

    def _first_of_same(self, thumbnails: np.ndarray) -> np.ndarray:
        """(n, 1728) thumbnails -> (n,) index of the earliest picture that each repeats."""
        means = thumbnails.mean(1)
        centred = thumbnails - means[:, None]
        limits = np.minimum(self.max_difference, LOW_CONTRAST * np.ptp(thumbnails, axis=1))
        blocks = _block_means(centred)

        order = np.argsort(means, kind="stable")
        ascending = means[order]
        first = np.arange(len(means))
        for position, index in enumerate(order):
            end = np.searchsorted(ascending, means[index] + self.max_exposure, "right")
            others = order[position + 1 : end]

            # a block's mean differs by no more than its cells do: 48 numbers instead of 1,728
            # tell most pairs apart
            block_differences = np.abs(blocks[others] - blocks[index]).max(1)
            others = others[block_differences <= limits[index] + ROUNDING]

            differences = np.abs(centred[others] - centred[index]).max(1)
            for other in others[differences <= np.minimum(limits[others], limits[index])]:
                kept, dropped = sorted((first[index], first[other]))
                first[first == first[dropped]] = kept
        return first


def _block_means(thumbnails: np.ndarray) -> np.ndarray:
    """(n, 1728) -> (n, 48): the mean of each of 4 x 4 blocks and 3 channels."""
    side = THUMBNAIL // BLOCKS
    cells = thumbnails.reshape(-1, BLOCKS, side, BLOCKS, side, 3)
    return cells.mean((2, 4)).reshape(len(thumbnails), -1)
