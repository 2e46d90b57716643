"""How crisp a set of pictures is: which part of its edges is softer than the training set's.

The width of an edge is the difference of colour across a small window divided by the largest
difference between neighbouring pixels in it, in pixels: a line or a fill that ends within a pixel
or two has 1 to 1.5, colours that run into each other have more, however strong or faint they are.
So it sees what a distance of whole sets of patches averages away, a smudge in one place of one
picture; and what is drawn (busy or plain, of any colour) counts little.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from storyboard import images
from storyboard.scoring.scores import Unmeasurable

WINDOW = 7  # pixels
CONTRAST = 0.1  # of colour across a window, black to white being the root of 3: fainter is unseen
QUANTILE = 0.99  # of the training set's widths; an edge is soft beyond it
LEAST, MOST = 16, 256  # training pictures that are looked at,
PIXELS = 2**23  # and their pixels in all
DRAWS = 64  # of training pictures, for the share that chance alone makes
CHANCE = 0.95


def fingerprint_inputs() -> dict[str, object]:
    """What the numbers depend on, beside the pictures."""
    return {"window": WINDOW, "contrast": CONTRAST, "quantile": QUANTILE, "pixels": PIXELS}


class EdgeCount(NamedTuple):
    """Windows of a picture that hold an edge, and those of them where it is soft."""

    soft: int
    edges: int


class TrainingEdges(NamedTuple):
    """What the edges of pictures are compared with.

    Attributes:
        size: (width, height) in pixels to which training pictures were brought.
        widest: The width in pixels beyond which an edge is soft.
        counts: Of each training picture.
    """

    size: tuple[int, int]
    widest: float
    counts: list[EdgeCount]


def pixels(path: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """The picture at ``path``: (3, height, width) in [0, 1].

    Args:
        size: (width, height) to which its middle is cut and scaled; as it is, where None.
    """
    image = images.read(path).image
    if size is not None and image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def widths(picture: torch.Tensor) -> torch.Tensor:
    """(3, h, w) in [0, 1] -> (n,) width in pixels of the edge in each window that holds one."""
    extent = _largest(picture, WINDOW, WINDOW) + _largest(-picture, WINDOW, WINDOW)
    across = _largest(picture.diff(dim=2).abs(), WINDOW, WINDOW - 1)
    down = _largest(picture.diff(dim=1).abs(), WINDOW - 1, WINDOW)
    steps = torch.maximum(across, down)

    difference = extent.square().sum(0).sqrt()
    step = steps.square().sum(0).sqrt()
    holds_edge = difference > CONTRAST
    return difference[holds_edge] / step[holds_edge]


def _largest(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest value in each window of (3, h, w), channel by channel."""
    return _largest_along(_largest_along(values, 1, height), 2, width)


def _largest_along(values: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """The largest of every ``length`` neighbours along ``dim``."""
    reached = 1
    while reached < length:  # the windows of twice the length, or as much more as is wanted
        more = min(reached, length - reached)
        rest = values.shape[dim] - more
        values = torch.maximum(values.narrow(dim, 0, rest), values.narrow(dim, more, rest))
        reached += more
    return values


def edge_count(picture: torch.Tensor, widest: float) -> EdgeCount:
    """The edges of (3, h, w) in [0, 1], and those wider than ``widest`` pixels."""
    found = widths(picture)
    return EdgeCount(int((found > widest).sum()), len(found))


def training_edges(paths: Sequence[Path], size: tuple[int, int]) -> TrainingEdges:
    """The edges of training pictures, of some evenly spread where there are many.

    Args:
        size: (width, height) of the pictures that are compared with them.

    Raises:
        Unmeasurable: They have no edge.
    """
    most = min(MOST, max(LEAST, PIXELS // (size[0] * size[1])))
    count = min(most, len(paths))
    spread = [paths[index * len(paths) // count] for index in range(count)]
    found = [widths(pixels(path, size)) for path in spread]
    every = torch.cat(found)
    if not len(every):
        raise Unmeasurable("the training pictures have no edges · 训练图没有边缘")

    widest = float(np.quantile(every.numpy(), QUANTILE))
    counts = [EdgeCount(int((each > widest).sum()), len(each)) for each in found]
    return TrainingEdges(size, widest, counts)


def soft_share(counts: Sequence[EdgeCount]) -> float:
    """Percent of the edges that are soft.

    Raises:
        Unmeasurable: There is no edge.
    """
    edges = sum(count.edges for count in counts)
    if not edges:
        raise Unmeasurable("the pictures have no edges · 画面没有边缘")
    return 100 * sum(count.soft for count in counts) / edges


def chance(counts: Sequence[EdgeCount], number: int) -> float:
    """The share of soft edges below which 19 of 20 sets of ``number`` training pictures lie."""
    generator = torch.Generator().manual_seed(0)
    with_edges = [count for count in counts if count.edges]
    drawn = torch.randint(len(with_edges), (DRAWS, number), generator=generator).tolist()
    shares = [soft_share([with_edges[index] for index in indices]) for indices in drawn]
    return float(np.quantile(shares, CHANCE))
