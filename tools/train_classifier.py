"""Train what reads the attributes of a picture: python -m tools.train_classifier ART [ART ...]

A small convolutional network, trained on real renders of the art alone (``tools/render_art.mjs``,
packed by ``python -m tools.pack_art ART 128``) and never on generated pictures. Blur, noise, shifts
and changed brightness while training stand for what a VAE does to a drawing. Writes
``models/mini-classifier/model.safetensors``.

ART was ``render_art.mjs art 12000 7 128``, ``render_art.mjs lorelei 2400 2025 128 lorelei`` and as
many of Lorelei with other haircuts, seed 2026: for a girl's long hair ``variant16``, 21 and 33, for
her short hair 19, 17 and 24, for a boy's 12, 06 and 03. ``--steps 7000`` with the haircuts of two
sets under each other's names, then ``--steps 2000 --lr 1e-3 --warm`` with the right ones. The
renders it is tested on, ``benchmarks/renders``, came of other seeds, and most have the haircuts
that the sample set had before.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from storyboard.models.classifier import SIDE, VALUES, WEIGHTS, Classifier, as_tensor, load
from tools import optimisation

UNKNOWN = -100  # what a picture does not show


def spoil(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, blur, noise and brightness at random, the same for a batch but for noise."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    shift = [round(draw(-4, 4)) for _ in range(2)]
    pictures = F.pad(pictures, (4,) * 4, mode="replicate")[
        :, :, 4 + shift[0] : 4 + shift[0] + SIDE, 4 + shift[1] : 4 + shift[1] + SIDE
    ]
    if draw(0, 1) < 0.5:
        small = F.interpolate(pictures, scale_factor=draw(0.6, 1), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, (SIDE, SIDE), mode="bilinear")
    return (
        pictures * draw(0.9, 1.05)
        + draw(-0.06, 0.06)
        + draw(0, 0.12) * torch.randn(pictures.shape, generator=generator)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm", action="store_true", help="go on from the committed weights")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    packed = [np.load(folder / f"pixels-{SIDE}.npy", mmap_mode="r") for folder in arguments.art]
    rows = [json.loads((folder / "meta.json").read_text()) for folder in arguments.art]
    labels = [
        {
            name: torch.tensor(
                [values.index(row[name]) if name in row else UNKNOWN for row in part]
            )
            for name, values in VALUES.items()
        }
        for part in rows
    ]
    model = load().train() if arguments.warm else Classifier()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (
            min(1, (s + 1) / 100) * (0.5 * (1 + math.cos(math.pi * s / arguments.steps)) + 0.003)
        ),
    )
    share = [len(part) for part in packed]
    for step in range(1, arguments.steps + 1):
        part = torch.multinomial(
            torch.tensor(share, dtype=torch.float), 1, generator=generator
        ).item()
        chosen = torch.randint(0, len(packed[part]), (arguments.batch,), generator=generator)
        pictures = spoil(
            as_tensor(packed[part][chosen.sort().values.numpy()]), generator
        ).contiguous(memory_format=torch.channels_last)
        with optimisation.bf16():
            logits = model(pictures)
        loss = sum(
            F.cross_entropy(
                logits[name].float(),
                labels[part][name][chosen.sort().values],
                ignore_index=UNKNOWN,
                label_smoothing=0.02,
            )
            for name in VALUES
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS
    )


if __name__ == "__main__":
    main()
