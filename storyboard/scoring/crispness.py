"""How crisp pictures are: which part of them is smudged, beside the training set.

The width of an edge is the difference of colour across a small window divided by the largest
difference between neighbouring pixels in it, in pixels: 1 to 1.5 where a line or a fill ends within
a pixel or two, more where colours run into each other, however strong or faint they are. An edge is
soft where it is wider than nearly all of the training set's; a smudge is a place that is soft all
around, as no seam along a clean line is. It is there that an eye sees one: this orders panels as
an eye does, better than distances between sets of patches (``benchmarks/RESULTS.md``), and depends
little on what is drawn. It does not see what is crisp and wrong.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from storyboard import images
from storyboard.scoring.scores import Unmeasurable

WINDOW = 9  # pixels
CONTRAST = 0.06  # of colour across a window, where black to white is the root of 3: less is unseen
QUANTILE = 0.98  # of the training set's widths; an edge is soft beyond it
SMUDGE = 3  # pixels each way that are soft, around a place that is smudged
LEAST, MOST = 16, 128  # training pictures that are looked at,
PIXELS = 2**23  # and their pixels in all
DRAWS = 64  # sets of training pictures, for the share that chance alone makes
CHANCE = 0.95


def fingerprint_inputs() -> dict[str, object]:
    """What the numbers depend on, beside the pictures."""
    return {
        "window": WINDOW,
        "contrast": CONTRAST,
        "quantile": QUANTILE,
        "smudge": SMUDGE,
        "pictures": [LEAST, MOST, PIXELS],
    }


class TrainingEdges(NamedTuple):
    """What pictures are compared with.

    Attributes:
        widest: The width in pixels beyond which an edge is soft.
        smudged: Percent of each training picture that is smudged.
    """

    widest: float
    smudged: list[float]


class Edges(NamedTuple):
    """The windows of a picture, (h, w) each.

    Attributes:
        contrast: Difference of colour in a window, 0 to the root of 3.
        step: The largest difference between neighbours in it.
    """

    contrast: torch.Tensor
    step: torch.Tensor

    def widths(self) -> torch.Tensor:
        """(n,) width in pixels of the edge in each window that holds one."""
        holds_edge = self.contrast > CONTRAST
        return self.contrast[holds_edge] / self.step[holds_edge]

    def smudged(self, widest: float) -> float:
        """Percent of the picture that is smudged: every edge around is wider than ``widest``."""
        soft = (self.contrast > CONTRAST) & (self.contrast > widest * self.step)
        crisp = _largest((~soft)[None].float(), SMUDGE, SMUDGE)
        return 100 * (1 - crisp.mean().item())


def pixels(path: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """The picture at ``path``: (3, height, width) in [0, 1].

    Args:
        size: (width, height) to which its middle is cut and scaled; as it is, where None.
    """
    image = images.read(path).image
    if size is not None and image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def edges(picture: torch.Tensor) -> Edges:
    """What each window of (3, h, w) in [0, 1] holds."""
    extent = _largest(picture, WINDOW, WINDOW) + _largest(-picture, WINDOW, WINDOW)
    across = _largest(picture.diff(dim=2).abs(), WINDOW, WINDOW - 1)
    down = _largest(picture.diff(dim=1).abs(), WINDOW - 1, WINDOW)
    step = torch.maximum(across, down)
    return Edges(extent.square().sum(0).sqrt(), step.square().sum(0).sqrt())


def _largest(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest value in each window of (channels, h, w), channel by channel."""
    return _largest_along(_largest_along(values, 1, height), 2, width)


def _largest_along(values: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """The largest of every ``length`` neighbours along ``dim``."""
    reached = 1
    while reached < length:  # windows of twice the length, or of as much more as is wanted
        more = min(reached, length - reached)
        rest = values.shape[dim] - more
        values = torch.maximum(values.narrow(dim, 0, rest), values.narrow(dim, more, rest))
        reached += more
    return values


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
    found = [edges(pixels(path, size)) for path in spread]
    widths = torch.cat([each.widths() for each in found])
    if not len(widths):
        raise Unmeasurable("the training pictures have no edges · 训练图没有边缘")

    widest = float(np.quantile(widths.numpy(), QUANTILE))
    return TrainingEdges(widest, [each.smudged(widest) for each in found])


def chance(smudged: Sequence[float], number: int) -> float:
    """The percentage below which 19 of 20 sets of ``number`` training pictures are smudged."""
    generator = torch.Generator().manual_seed(0)
    sets = torch.randint(len(smudged), (DRAWS, number), generator=generator)
    shares = torch.tensor(smudged)[sets].mean(1)
    return float(np.quantile(shares.numpy(), CHANCE))
