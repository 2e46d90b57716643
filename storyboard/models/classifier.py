"""Reads the attributes of a picture of ``mini`` back, by a small convolutional network.

``tools/train_classifier.py`` trained it, on renders of the art and never on a generated picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from storyboard import images, resources, vocabulary

WEIGHTS = resources.path("models/mini-classifier/model.safetensors")
SIDE = 128
# a head gives its values in this order, so that the published weights go with it
PLAIN_BACKGROUNDS = ("blue", "pink", "purple", "yellow", "green", "white", "orange", "gray")
CLOTHES_COLORS = tuple(vocabulary.COLORS)[:8]  # none of the training pictures has the others
VALUES: dict[str, tuple[str | None, ...]] = {
    "hair_color": tuple(vocabulary.HAIR),
    "background": (*vocabulary.SCENE, *PLAIN_BACKGROUNDS),
    "clothes_color": CLOTHES_COLORS,
    "expression": tuple(vocabulary.EXPRESSION),
    "hair_length": tuple(vocabulary.LENGTH),
    "style": tuple(vocabulary.STYLE),
    "prop": (None, *vocabulary.PROP),
    "framing": tuple(vocabulary.FRAMING),
    "facing": (None, *vocabulary.FACING),  # None: drawn from the front
}
BATCH_SIZE = 32


class Block(nn.Module):
    """(n, width, h, w) -> (n, out, h / 2, w / 2), with a residual connection."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, out, 3, 2, 1),
            nn.GroupNorm(8, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, 1, 1),
            nn.GroupNorm(8, out),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.layers(x) + self.skip(x))


class Head(nn.Module):
    """(n, 32 * 64) features -> (n, values) logits: by place, and by the strongest of any place.

    A small figure stands anywhere; what its face shows is the same everywhere.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.by_place = nn.Linear(32 * 64, values)
        self.anywhere = nn.Linear(32, values)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        strongest = features.view(len(features), 32, 64).amax(2)
        return self.by_place(features) + self.anywhere(strongest)


class Classifier(nn.Module):
    """(n, 3, 128, 128) pictures in [-1, 1] -> {attribute: (n, values) logits}."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.SiLU(),
            Block(32, 64),
            Block(64, 96),
            Block(96, 128),
            nn.Conv2d(128, 32, 1),
            nn.Flatten(),
        )
        self.heads = nn.ModuleDict({name: Head(len(values)) for name, values in VALUES.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def readable(prompt: str) -> dict[str, set[str]]:
    """What ``prompt`` names (attribute -> values), as far as the classifier knows the values."""
    named = vocabulary.named_attributes(prompt)
    known = {name: values & set(VALUES.get(name, ())) for name, values in named.items()}
    return {name: values for name, values in known.items() if values}


def pixels(path: Path) -> np.ndarray:
    """The picture at ``path`` as the classifier takes it: uint8 (128, 128, 3)."""
    return pixels_of(images.read(path).image)


def pixels_of(image: Image.Image) -> np.ndarray:
    """A picture in RGB as the classifier takes it: uint8 (128, 128, 3)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def load() -> Classifier:
    """The trained classifier of this repository."""
    with torch.random.fork_rng():  # weights are drawn and then replaced
        model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


Reading = dict[str, tuple[str | None, float]]


def read(model: Classifier, pixels: np.ndarray) -> list[dict]:
    """uint8 (n, 128, 128, 3) -> one {attribute: value} a picture."""
    return [
        {name: value for name, (value, _) in reading.items()}
        for reading in readings(model, features(model, pixels))
    ]


@torch.no_grad()
def readings(model: Classifier, features: torch.Tensor) -> list[Reading]:
    """(n, 2048) of ``features`` -> {attribute: (the most probable value, its probability)} each.

    The probability is low where the network has seen nothing alike
    (https://arxiv.org/abs/1610.02136).
    """
    found: list[Reading] = [{} for _ in features]
    for name, head in model.heads.items():
        probabilities, indices = head(features).softmax(1).max(1)
        for reading, index, probability in zip(
            found, indices.tolist(), probabilities.tolist(), strict=True
        ):
            reading[name] = VALUES[name][index], probability
    return found


@torch.no_grad()
def features(model: Classifier, pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, 128, 128, 3) -> (n, 2048), from which the attributes are read.

    32 channels at 8 x 8 positions; averaged over positions they no longer tell the styles apart.
    """
    batches = [
        model.body(as_tensor(pixels[start : start + BATCH_SIZE]))
        for start in range(0, len(pixels), BATCH_SIZE)
    ]
    return torch.cat(batches)


def accuracy(read_back: Sequence[dict], wanted: Sequence[dict]) -> dict[str, float]:
    """Percent of pictures in which an attribute reads as ``wanted``, by attribute.

    An attribute counts where ``wanted`` has it, and is left out where none has.
    """
    percent = {}
    for name in VALUES:
        pairs = zip(read_back, wanted, strict=True)
        matches = [shown[name] == row[name] for shown, row in pairs if name in row]
        if matches:
            percent[name] = round(100 * sum(matches) / len(matches), 1)
    return percent
