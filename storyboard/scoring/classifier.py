"""Reads the attributes of a picture of ``mini`` back: a small convolutional network, trained by ``tools/train_classifier.py``.

It saw real renders of the art alone and never a generated picture.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from storyboard import resources

WEIGHTS = resources.path("models/mini-classifier/model.safetensors")
SIDE = 128
PLACES = (
    "seaside",
    "forest",
    "night",
    "rain",
    "snow",
    "sunset",
    "classroom",
    "home",
    "city",
    "stage",
    "garden",
    "space",
)
PLAIN = ("blue", "pink", "purple", "yellow", "green", "white", "orange", "gray")
VALUES = {
    "hair_color": ("purple", "black", "brown", "blonde", "red", "pink", "blue", "green", "white"),
    "background": (*PLACES, *PLAIN),
    "clothes_color": ("red", "blue", "green", "yellow", "purple", "white", "black", "pink"),
    "expression": ("smiling", "laughing", "sad", "surprised", "asleep", "winking"),
    "hair_length": ("short", "long"),
    "style": ("avataaars", "personas", "toonHead", "micah", "lorelei"),
    "prop": (
        None,
        "balloon",
        "umbrella",
        "book",
        "guitar",
        "cat",
        "flowers",
        "cup",
        "ice_cream",
        "camera",
        "microphone",
        "lantern",
        "gift",
    ),
}


class Block(nn.Module):
    def __init__(self, width: int, out: int):
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


class Classifier(nn.Module):
    """(n, 3, 128, 128) pictures in [-1, 1] -> {attribute: (n, values) logits}."""

    def __init__(self):
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
        self.heads = nn.ModuleDict(
            {name: nn.Linear(32 * 64, len(values)) for name, values in VALUES.items()}
        )

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def pixels(path: Path) -> np.ndarray:
    """A picture as the classifier takes it: uint8 (128, 128, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.LANCZOS))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def load() -> Classifier:
    """The trained classifier of this repository."""
    with torch.random.fork_rng():  # weights are drawn and then replaced
        model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


@torch.no_grad()
def read(model: Classifier, pixels: np.ndarray) -> list[dict]:
    """uint8 (n, 128, 128, 3) -> one {attribute: value} a picture."""
    rows = []
    for start in range(0, len(pixels), 32):
        said = {
            name: logits.argmax(1).tolist()
            for name, logits in model(as_tensor(pixels[start : start + 32])).items()
        }
        rows += [
            {name: VALUES[name][index[i]] for name, index in said.items()}
            for i in range(len(next(iter(said.values()))))
        ]
    return rows


@torch.no_grad()
def features(model: Classifier, pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, 128, 128, 3) -> (n, 2048), what the attributes are read from: 32 channels in 8 x 8 places.

    Averaged over places they no longer tell the styles apart.
    """
    return torch.cat(
        [model.body(as_tensor(pixels[start : start + 32])) for start in range(0, len(pixels), 32)]
    )


def accuracy(read_back: list[dict], asked: list[dict]) -> dict[str, float]:
    """Percent of pictures in which an attribute reads as asked."""
    return {
        name: round(
            100
            * sum(r[name] == a[name] for r, a in zip(read_back, asked, strict=True))
            / len(asked),
            1,
        )
        for name in VALUES
    }
