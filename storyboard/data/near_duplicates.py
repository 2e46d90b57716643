"""The Data-Juicer operator that finds near-duplicates, in bounded memory and on several machines.

Thumbnails lie in a file; in memory are 200 bytes of each. Pictures are compared in slices, which do
not need each other. As ``operators.py``, this file imports nothing of this package.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Deduplicator
from data_juicer.utils.mm_utils import load_data_with_context, load_image
from PIL import Image

THUMBNAIL = 24  # pixels of a side
FINE = 2  # times as many pixels of a side, where a change in one place alone is looked for
FINE_SIZE = 3 * (FINE * THUMBNAIL) ** 2
BLOCKS = 4  # of a thumbnail, in each direction
FEW = 8  # of which every eighth mean is compared first
LOW_CONTRAST = 0.15  # of a thumbnail's range, above which a difference always counts
ROUNDING = 0.01  # of means of blocks in fp32
# In a fine thumbnail of a picture that was changed in one place alone, that differs by at least
# LOCAL_RANGE levels and LOCAL_TIMES the root mean square of all differences: 13 to 27 times for
# another mouth, 9 and less for the same picture saved again.
LOCAL_RANGE = 16
LOCAL_TIMES = 11
AT_ONCE = 256  # thumbnails in memory
SLICE = 1024  # pictures that are compared with all of about their luminance, in one go


@OPERATORS.register_module("image_near_deduplicator")
class ImageNearDeduplicator(Deduplicator):
    """Keeps the first of pictures that differ by recompression, scaling or exposure alone.

    Compares 24 x 24 colour thumbnails, exposure taken out: a changed expression moves some cell by
    far more than a new JPEG does. A small one, such as another mouth in a figure seen from afar,
    moves no cell of these far, but a few of 48 x 48 by many times as much as the rest. Only
    pictures of about the same mean luminance are compared, each with all others at once.

    Args:
        max_difference: Largest difference of any cell and channel that still counts as the same, 0
            to 255; in pictures of low contrast, such as thin lines on white, no more than 15 % of
            the thumbnail's range.
        max_exposure: Largest difference of the mean that is taken out, 0 to 255.

    Attributes:
        folder: Where thumbnails are put while they are compared; None for the system's own.
        pairs_of: Finds the pairs of slices, as ``pairs_of`` below does here.
    """

    def __init__(self, max_difference: float = 24.0, max_exposure: float = 12.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_difference, self.max_exposure = max_difference, max_exposure
        self.folder: Path | None = None
        self.pairs_of = pairs_of

    def compute_hash(self, sample, context=False):
        if "thumbnail" not in sample:
            key = sample[self.image_key][0]
            _, images = load_data_with_context(
                sample, context, [key], load_image, mm_bytes_key=self.image_bytes_key
            )
            side = FINE * THUMBNAIL
            thumbnail = images[key].resize((side, side), Image.Resampling.BOX)
            sample["thumbnail"] = thumbnail.tobytes().hex()
        return sample

    def process(self, dataset, show_num=0):
        # in a file, as those of a million pictures take 7 GB
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            arguments = {
                "path": str(Path(folder).resolve() / "thumbnails"),
                "max_difference": self.max_difference,
                "max_exposure": self.max_exposure,
            }
            _write_thumbnails(dataset, arguments["path"])
            first = np.arange(len(dataset))
            for pairs in self.pairs_of(arguments, range(0, len(dataset), SLICE)):
                for one, other in pairs:
                    kept, dropped = sorted((first[one], first[other]))
                    if kept != dropped:
                        first[first == dropped] = kept

        ids = dataset["id"][:]
        self.repeats = {ids[i]: ids[same] for i, same in enumerate(first) if same != i}
        kept = dataset.select([i for i, same in enumerate(first) if same == i])
        return kept.remove_columns("thumbnail"), {}


def pairs_of(arguments: dict, starts: Sequence[int]) -> Iterator[np.ndarray]:
    """The pairs in each slice of ``Thumbnails(**arguments)``."""
    return map(Thumbnails(**arguments).pairs, starts)


def _write_thumbnails(dataset, path: str) -> None:
    """Write fine thumbnails, and what ``Thumbnails`` keeps in memory of them."""
    sketches = []
    with Path(path).open("wb") as file:
        for start in range(0, len(dataset), AT_ONCE):
            raw = b"".join(map(bytes.fromhex, dataset[start : start + AT_ONCE]["thumbnail"]))
            file.write(raw)
            thumbnails = _smaller(np.frombuffer(raw, np.uint8).reshape(-1, FINE_SIZE))
            ranges = np.ptp(thumbnails, axis=1)
            means = thumbnails.mean(1)
            blocks = _block_means(thumbnails - means[:, None])
            sketches.append(np.column_stack([means, ranges, blocks]))
    np.save(f"{path}.npy", np.concatenate(sketches))


class Thumbnails:
    """Of pictures in the order of their mean luminance, which repeat each other.

    Args:
        path: Where ``_write_thumbnails`` has written them.
        max_difference, max_exposure: As of ``ImageNearDeduplicator``.
    """

    def __init__(self, path: str, max_difference: float, max_exposure: float) -> None:
        self.fine = np.memmap(path, np.uint8, "r").reshape(-1, FINE_SIZE)
        sketches = np.load(f"{path}.npy")
        self.order = np.argsort(sketches[:, 0], kind="stable")
        sketches = sketches[self.order]
        self.means, self.blocks = sketches[:, 0], sketches[:, 2:]
        self.few = np.ascontiguousarray(self.blocks[:, ::FEW].T)
        self.limits = np.minimum(max_difference, LOW_CONTRAST * sketches[:, 1])
        self.max_exposure = max_exposure

    def pairs(self, start: int) -> np.ndarray:
        """(m, 2) indices of pictures that are the same, one of them in the slice at ``start``.

        Of several that are all the same, each is in a pair with the first in order alone.
        """
        same = np.arange(len(self.order))  # position of the first that each repeats
        for one in range(start, min(start + SLICE, len(same))):
            end = np.searchsorted(self.means, self.means[one] + self.max_exposure, "right")
            # a block's mean differs by no more than its cells do: 6 numbers, and then 48 instead of
            # 1,728, tell most pairs apart
            limit = self.limits[one] + ROUNDING
            differences = np.abs(self.few[:, one + 1 : end] - self.few[:, one, None]).max(0)
            others = one + 1 + np.flatnonzero(differences <= limit)
            differences = np.abs(self.blocks[others] - self.blocks[one]).max(1)
            others = others[differences <= limit]
            for at in range(0, len(others), AT_ONCE):
                some = others[at : at + AT_ONCE]
                some = some[same[some] != same[one]]
                if len(some := some[self._are_same(one, some)]):
                    joined = same[[one, *some]]
                    same[np.isin(same, joined)] = joined.min()
        found = np.flatnonzero(same != np.arange(len(same)))
        return self.order[np.column_stack([same[found], found])]

    def _are_same(self, one: int, others: np.ndarray) -> np.ndarray:
        """Whether the pictures at the positions ``others`` and at ``one`` are the same."""
        fine = self.fine[self.order[[one, *others]]]
        thumbnails = _smaller(fine)
        centred = thumbnails - thumbnails.mean(1)[:, None]
        differences = np.abs(centred[1:] - centred[0]).max(1)
        near = differences <= np.minimum(self.limits[others], self.limits[one])
        near[near] = ~_changed_in_one_place(fine[1:][near], fine[0])
        return near


def _smaller(fine: np.ndarray) -> np.ndarray:
    """(n, 6912), uint8 -> (n, 1728), fp32: means of 2 x 2 pixels."""
    cells = fine.reshape(-1, THUMBNAIL, FINE, THUMBNAIL, FINE, 3)
    return cells.mean((2, 4), dtype=np.float32).reshape(len(fine), -1)


def _changed_in_one_place(others: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(n, 6912) and (6912,) fine thumbnails, uint8 -> (n,): those that differ there alone."""
    differences = others.astype(np.float32) - one
    differences = np.abs(differences - differences.mean(1, keepdims=True))
    largest = differences.max(1)
    usual = np.sqrt(np.square(differences).mean(1)) + 0.5
    return (largest >= LOCAL_RANGE) & (largest >= LOCAL_TIMES * usual)


def _block_means(thumbnails: np.ndarray) -> np.ndarray:
    """(n, 1728) -> (n, 48): the mean of each of 4 x 4 blocks and 3 channels."""
    side = THUMBNAIL // BLOCKS
    cells = thumbnails.reshape(-1, BLOCKS, side, BLOCKS, side, 3)
    return cells.mean((2, 4)).reshape(len(thumbnails), -1)
