"""Reads the attributes of a picture back: python benchmarks/classifier.py ART [ART ...]

A small convolutional network, trained on real renders of the art alone (``tools/render_art.mjs``, packed by
``tools/pack_art.py ART 128``) and never on generated pictures. Blur, noise, shifts and changed brightness while
training stand for what a VAE does to a drawing. Writes ``benchmarks/classifier.safetensors``.

ART was ``render_art.mjs art 12000 7`` and ``render_art.mjs lorelei 3000 2025 256 lorelei``; the renders it is tested on,
``benchmarks/renders``, came of other seeds.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
SIDE = 128
PLACES = ("seaside", "forest", "night", "rain", "snow", "sunset", "classroom", "home", "city", "stage", "garden", "space")
PLAIN = ("blue", "pink", "purple", "yellow", "green", "white", "orange", "gray")
VALUES = {
    "hair_color": ("purple", "black", "brown", "blonde", "red", "pink", "blue", "green", "white"),
    "background": (*PLACES, *PLAIN),
    "clothes_color": ("red", "blue", "green", "yellow", "purple", "white", "black", "pink"),
    "expression": ("smiling", "laughing", "sad", "surprised", "asleep", "winking"),
    "hair_length": ("short", "long"),
    "style": ("avataaars", "personas", "toonHead", "micah", "lorelei"),
    "prop": (None, "balloon", "umbrella", "book", "guitar", "cat", "flowers", "cup", "ice_cream", "camera", "microphone", "lantern", "gift"),
}


class Block(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, out, 3, 2, 1), nn.GroupNorm(8, out), nn.SiLU(), nn.Conv2d(out, out, 3, 1, 1), nn.GroupNorm(8, out))
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.layers(x) + self.skip(x))


class Classifier(nn.Module):
    """(n, 3, 128, 128) pictures in [-1, 1] -> {attribute: (n, values) logits}."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.SiLU(), Block(32, 64), Block(64, 96), Block(96, 128), nn.Conv2d(128, 32, 1), nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(32 * 64, len(values)) for name, values in VALUES.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def load() -> Classifier:
    """The trained classifier of this repository."""
    model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


@torch.no_grad()
def read(model: Classifier, pixels: np.ndarray) -> list[dict]:
    """uint8 (n, 128, 128, 3) -> one {attribute: value} a picture."""
    rows = []
    for start in range(0, len(pixels), 32):
        said = {name: logits.argmax(1).tolist() for name, logits in model(as_tensor(pixels[start:start + 32])).items()}
        rows += [{name: VALUES[name][index[i]] for name, index in said.items()} for i in range(len(next(iter(said.values()))))]
    return rows


def accuracy(read_back: list[dict], asked: list[dict]) -> dict[str, float]:
    """Percent of pictures in which an attribute reads as asked."""
    return {name: round(100 * sum(r[name] == a[name] for r, a in zip(read_back, asked, strict=True)) / len(asked), 1) for name in VALUES}


def spoil(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, blur, noise and brightness at random, the same for a batch but for noise."""
    draw = lambda low, high: low + (high - low) * torch.rand((), generator=generator).item()
    shift = [round(draw(-4, 4)) for _ in range(2)]
    pictures = F.pad(pictures, (4,) * 4, mode="replicate")[:, :, 4 + shift[0]:4 + shift[0] + SIDE, 4 + shift[1]:4 + shift[1] + SIDE]
    if draw(0, 1) < 0.5:
        small = F.interpolate(pictures, scale_factor=draw(0.6, 1), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, (SIDE, SIDE), mode="bilinear")
    return pictures * draw(0.9, 1.05) + draw(-0.06, 0.06) + draw(0, 0.12) * torch.randn(pictures.shape, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    packed = [np.load(folder / f"pixels-{SIDE}.npy", mmap_mode="r") for folder in arguments.art]
    rows = [json.loads((folder / "meta.json").read_text()) for folder in arguments.art]
    labels = [{name: torch.tensor([VALUES[name].index(row[name]) for row in part]) for name in VALUES} for part in rows]
    model = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 100) * (0.5 * (1 + math.cos(math.pi * s / arguments.steps)) + 0.003))
    share = [len(part) for part in packed]
    for step in range(1, arguments.steps + 1):
        part = torch.multinomial(torch.tensor(share, dtype=torch.float), 1, generator=generator).item()
        chosen = torch.randint(0, len(packed[part]), (arguments.batch,), generator=generator)
        pictures = spoil(as_tensor(packed[part][chosen.sort().values.numpy()]), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pictures)
        loss = sum(F.cross_entropy(logits[name].float(), labels[part][name][chosen.sort().values], label_smoothing=0.02) for name in VALUES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
