"""Finds text in a picture, whatever it says: watermarks, captions, screens, by a small network.

A fully convolutional network gives each cell of 8 x 8 pixels the probability that letters stand in
it, as EAST does (Zhou et al. 2017) without the boxes. ``tools/train_text_detector.py`` trained it
on lettering over drawings. Flowers, fringes and rain look to it a little like letters, but they are
round or short; text runs in lines, so lines are what is looked for.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from storyboard import resources

WEIGHTS = resources.path("models/mini-text-detector/model.safetensors")
SIDE = 256  # pixels of the shorter side at which text is looked for
LONGEST_SIDE = 1024  # pixels of the longer side there
CELL = 8  # pixels of a side
LINE = 16  # cells of a straight line of text: half of the shorter side
ANGLES = range(-90, 90, 9)  # degrees of lines, upright writing among them


class Layer(nn.Module):
    """(n, width, h, w) -> (n, out, h / stride, w / stride)."""

    def __init__(self, width: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, out, 3, stride, dilation, dilation)
        self.norm = nn.GroupNorm(4, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.convolution(x)))


class TextDetector(nn.Module):
    """(n, 3, h, w) pictures in [-1, 1] -> (n, h / 8, w / 8) logits that a cell holds text.

    h and w are multiples of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Layer(3, 16, stride=2),
            Layer(16, 24, stride=2),
            Layer(24, 32),
            Layer(32, 32, dilation=2),
            Layer(32, 48, stride=2),
            Layer(48, 48, dilation=2),
            Layer(48, 48, dilation=4),
            nn.Conv2d(48, 1, 1),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures)[:, 0]


def load() -> TextDetector:
    """The trained detector of this repository."""
    with torch.random.fork_rng():  # weights are drawn and then replaced
        model = TextDetector()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


def pixels_of(image: Image.Image) -> np.ndarray:
    """A picture in RGB as the detector takes it: uint8 (h, w, 3).

    Its shorter side is 256, or its longer one 1,024 where that is less, rounded to cells.
    """
    scale = min(SIDE / min(image.size), LONGEST_SIDE / max(image.size))
    size = [max(CELL, CELL * round(side * scale / CELL)) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


@torch.no_grad()
def text_map(model: TextDetector, pixels: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> fp32 (h / 8, w / 8): the probability that a cell holds text."""
    picture = torch.tensor(pixels).permute(2, 0, 1)[None].float().div_(127.5).sub_(1)
    return model(picture)[0].sigmoid().numpy()


def text_line(probabilities: np.ndarray) -> float:
    """The share of a straight line of LINE cells that text fills, 0 to 1, where that is largest.

    Args:
        probabilities: (h, w), as ``text_map`` gives them.
    """
    height, width = probabilities.shape
    padded = np.pad(probabilities, LINE)
    along = np.arange(LINE) - (LINE - 1) / 2
    best = 0.0
    for angle in np.deg2rad(ANGLES):
        rows = LINE + np.rint(along * np.sin(angle)).astype(int)
        columns = LINE + np.rint(along * np.cos(angle)).astype(int)
        cells = [
            padded[row : row + height, column : column + width]
            for row, column in zip(rows, columns, strict=True)
        ]
        best = max(best, float(np.sum(cells, axis=0).max()) / LINE)
    return best
