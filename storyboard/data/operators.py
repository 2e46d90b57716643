"""Data-Juicer operators that it does not have itself: sharpness, and near-duplicates. Nothing to download.

Importing this module registers them; recipes then call them by name like any other operator.
"""

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Deduplicator, Filter
from data_juicer.utils.constant import Fields
from data_juicer.utils.mm_utils import load_data_with_context, load_image
from PIL import Image

THUMBNAIL = 24
BLOCKS = 4  # in each direction


def _picture(op, sample: dict, context: bool) -> Image.Image:
    """The row's picture in RGB, decoded unless an operator before has done so."""
    _, images = load_data_with_context(
        sample, context, sample[op.image_key][:1], load_image, mm_bytes_key=op.image_bytes_key
    )
    return images[sample[op.image_key][0]]


@OPERATORS.register_module("image_sharpness_filter")
class ImageSharpnessFilter(Filter):
    """Keeps pictures that have sharp edges somewhere.

    Sharpness is the 99th percentile of the gradient's magnitude over the luminance range (2nd to 98th percentile),
    of the picture scaled so that its shorter side is 256: about 0.05 for a blurred picture, over 0.2 for a drawing.

    Args:
        min_sharpness: Least sharpness to keep, 0 to 1.
    """

    def __init__(self, min_sharpness: float = 0.1, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min_sharpness = min_sharpness

    def compute_stats_single(self, sample, context=False):
        if "image_sharpness" not in sample[Fields.stats]:
            image = _picture(self, sample, context).convert("L")
            scale = 256 / min(image.size)
            image = image.resize(
                [max(8, round(side * scale)) for side in image.size], Image.BICUBIC
            )
            rows, columns = np.gradient(np.asarray(image, np.float32))
            edge = (
                np.percentile(rows * rows + columns * columns, 99) ** 0.5
            )  # one root instead of one for each pixel
            low, high = np.searchsorted(
                np.cumsum(image.histogram()), np.multiply([0.02, 0.98], image.width * image.height)
            )
            sample[Fields.stats]["image_sharpness"] = float(edge / max(high - low, 8))
        return sample

    def process_single(self, sample):
        return bool(sample[Fields.stats]["image_sharpness"] >= self.min_sharpness)


@OPERATORS.register_module("image_near_deduplicator")
class ImageNearDeduplicator(Deduplicator):
    """Keeps one of pictures that differ by recompression, scaling or exposure alone, in their stead the first.

    Compares 24 x 24 colour thumbnails, exposure taken out: a changed expression moves some cell by far more than a
    new JPEG does. Only pictures of about the same mean luminance are compared, each with all others at once.

    Args:
        max_difference: Largest difference of any cell and channel that still counts as the same, 0 to 255; in
            pictures of low contrast, such as thin lines on white, no more than 15 % of the thumbnail's range.
        max_exposure: Largest difference of the mean that is taken out, 0 to 255.
    """

    def __init__(self, max_difference: float = 24.0, max_exposure: float = 12.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_difference, self.max_exposure = max_difference, max_exposure

    def compute_hash(self, sample, context=False):
        if "thumbnail" not in sample:
            sample["thumbnail"] = (
                _picture(self, sample, context)
                .resize((THUMBNAIL, THUMBNAIL), Image.BOX)
                .tobytes()
                .hex()
            )
        return sample

    def process(self, dataset, show_num=0):
        thumbnails = np.stack(
            [np.frombuffer(bytes.fromhex(raw), np.uint8) for raw in dataset["thumbnail"][:]]
        ).astype(np.float32)
        means = thumbnails.mean(1)
        centred = thumbnails - means[:, None]
        limits = np.minimum(self.max_difference, 0.15 * np.ptp(thumbnails, axis=1))
        # a block's mean differs by no more than its cells do: most pairs are told apart by 48 numbers instead of 1,728
        side = THUMBNAIL // BLOCKS
        blocks = (
            centred.reshape(-1, BLOCKS, side, BLOCKS, side, 3)
            .mean((2, 4))
            .reshape(len(centred), -1)
        )
        order = np.argsort(means, kind="stable")
        ascending = means[order]
        first = np.arange(len(means))  # of each picture, the earliest one that it repeats
        for place, here in enumerate(order):
            end = np.searchsorted(ascending, means[here] + self.max_exposure, "right")
            near = order[place + 1 : end]
            near = near[np.abs(blocks[near] - blocks[here]).max(1) <= limits[here] + 0.01]
            differences = np.abs(centred[near] - centred[here]).max(1)
            for there in near[differences <= np.minimum(limits[near], limits[here])]:
                kept, dropped = sorted((first[here], first[there]))
                first[first == first[dropped]] = kept
        ids = dataset["id"][:]
        self.repeats = {ids[i]: ids[first[i]] for i in range(len(ids)) if first[i] != i}
        return dataset.select([i for i in range(len(ids)) if first[i] == i]).remove_columns(
            "thumbnail"
        ), {}
