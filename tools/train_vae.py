"""Train the VAE of ``mini``: python -m tools.train_vae ART WORK --steps 5000 --lines LINES

SDXL's layout (f8, four latent channels) with narrow layers. Crops first, for their many colours a
step; then whole pictures, because GroupNorm's statistics of a crop are not those of a picture. With
``--decoder-only`` the encoder stays as it is, so that latents already cached for the UNet remain
valid.

``--lines`` names a folder of ink drawings: every third batch comes from there, so that outlines
stay sharp in styles that the base never draws. ``--warm models/mini/vae`` goes on from weights that
are there already.

Resumable: run the same command again and it goes on from ``WORK/vae.ckpt``.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools import optimisation, widen

CONFIG = {
    "block_out_channels": (32, 64, 128, 136),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 256,
}
CROP = 64
HELD_OUT = 48  # pictures at the start of each set
WARM_STEPS = 50
MEASURE_EVERY = 250


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return (torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
        memory_format=torch.channels_last
    )


def edge_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 between horizontal and vertical differences: keeps drawn lines sharp."""
    return sum(F.l1_loss(decoded.diff(dim=d), target.diff(dim=d)) for d in (2, 3))


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: np.ndarray) -> float:
    """Mean PSNR in dB over held-out pictures, eight at a time."""
    values = []
    for start in range(0, len(pixels), 8):
        target = as_batch(pixels[start : start + 8])
        decoded = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        values += (10 * torch.log10(4 / ((target - decoded) ** 2).mean((1, 2, 3)))).tolist()
    return sum(values) / len(values)


def draw_batch(pixels: np.ndarray, area: int, crop: bool, rng: np.random.Generator) -> torch.Tensor:
    """About ``area`` pixels of pictures that are not held out: whole, or crops of CROP x CROP."""
    side = CROP if crop else pixels.shape[1]
    size = max(1, round(area / side**2))
    rows = rng.integers(HELD_OUT, len(pixels), size)
    tops, lefts = rng.integers(0, pixels.shape[1] - side + 1, (2, size))
    crops = [
        pixels[row, top : top + side, left : left + side]
        for row, top, left in zip(rows, tops, lefts, strict=True)
    ]
    return as_batch(np.stack(crops))


def loss_of(decoded: torch.Tensor, target: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
    """L1, L2 and edges of pictures (n, 3, h, w); a little of the latents' divergence."""
    error = F.l1_loss(decoded, target) + 2 * F.mse_loss(decoded, target)
    return error + 0.5 * edge_loss(decoded, target) + 3e-7 * divergence


def network(widths: Sequence[int]) -> AutoencoderKL:
    """A VAE at these channels of its four resolutions, highest first."""
    return AutoencoderKL(**CONFIG | {"block_out_channels": tuple(widths)})


def build(arguments: argparse.Namespace) -> AutoencoderKL:
    vae = network(arguments.widths)
    if arguments.warm:
        known = AutoencoderKL.from_pretrained(arguments.warm).state_dict()
        widen.load(vae, known, CONFIG["norm_num_groups"])
    vae.to(memory_format=torch.channels_last)
    if arguments.decoder_only:
        vae.load_state_dict(torch.load(arguments.work / "vae.ckpt", weights_only=True)["vae"])
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    return vae


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("art", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--lines", type=Path)
    parser.add_argument("--warm", type=Path, help="a diffusers VAE folder to begin with")
    parser.add_argument(
        "--widths",
        type=int,
        nargs=4,
        default=CONFIG["block_out_channels"],
        help="channels; as many as those of --warm, or more",
    )
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="of AdamW; Muon's is 2.5 times as high"
    )
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256])
    parser.add_argument("--area", type=int, default=4 * 128 * 128, help="pixels in a batch")
    parser.add_argument(
        "--crops", type=float, default=0.6, help="this part of the steps sees crops"
    )
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument(
        "--bf16", action="store_true", help="autocast; faster where there is bf16 arithmetic"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(
    vae: AutoencoderKL, packed: list[np.ndarray], arguments: argparse.Namespace
) -> Iterator[tuple[int, float, optimisation.Optimizers]]:
    """Train step by step; yields after each its number and its loss, and the optimizers."""
    optimizers = optimisation.Optimizers(
        vae,
        ("conv_in", "conv_out", "quant_conv"),
        arguments.lr,
        muon_factor=2.5,
        betas=(0.9, 0.99),
    )
    start, checkpoint = 0, checkpoint_of(arguments)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizers.load(state["optimizers"])
        start = state["step"]
    rng = np.random.default_rng([arguments.seed, start])

    for step in range(start, arguments.steps):
        optimizers.set_learning_rates(optimisation.decay(step, arguments.steps, WARM_STEPS))
        crop = step < arguments.crops * arguments.steps
        target = draw_batch(packed[step % len(packed)], arguments.area, crop, rng)
        with optimisation.bf16(arguments.bf16):
            posterior = vae.encode(target).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        loss = loss_of(decoded, target, posterior.kl().mean())
        optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizers.parameters, 1.0)
        optimizers.step()
        yield step + 1, loss.item(), optimizers


def checkpoint_of(arguments: argparse.Namespace) -> Path:
    return arguments.work / ("vae-decoder.ckpt" if arguments.decoder_only else "vae.ckpt")


def main() -> None:
    arguments = command_line()
    torch.manual_seed(arguments.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)
    art, lines = arguments.art, arguments.lines
    folders = [art, art, lines] if lines else [art]
    packed = [
        np.load(folder / f"pixels-{resolution}.npy", mmap_mode="r")
        for resolution in arguments.resolutions
        for folder in folders
    ]

    vae = build(arguments)
    began, mean = time.time(), None
    for step, loss, optimizers in train(vae, packed, arguments):
        mean = loss if mean is None else 0.99 * mean + 0.01 * loss
        if step % MEASURE_EVERY and step != arguments.steps:
            continue
        values = [
            round(psnr(vae, np.asarray(pixels[:HELD_OUT])), 2)
            for pixels in packed[len(folders) // 3 :]
        ]
        seconds = f"{time.time() - began:.0f} s"
        print(f"step {step}  {seconds}  loss {mean:.4f}  PSNR {values}", flush=True)
        state = {
            "vae": vae.state_dict(),
            "widths": list(arguments.widths),
            "optimizers": optimizers.state_dicts(),
            "step": step,
        }
        optimisation.save_whole(state, checkpoint_of(arguments))


if __name__ == "__main__":
    main()
