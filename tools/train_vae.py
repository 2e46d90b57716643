"""Train the VAE of ``mini``: python -m tools.train_vae ART WORK --steps 5000 --lines LINES

SDXL's layout (f8, four latent channels) with narrow layers. Crops first, for their many colours a step; then
whole pictures, because GroupNorm's statistics of a crop are not those of a picture. With ``--decoder-only`` the
encoder stays as it is, so that latents already cached for the UNet remain valid.

``--lines`` names a folder of ink drawings: every third batch comes from there, so that outlines stay sharp in styles
that the base never draws. ``--warm models/mini/vae`` goes on from weights that are there already.

Resumable: run the same command again and it goes on from ``WORK/vae.ckpt``.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tools import muon

CONFIG = {
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 256,
}
CROP = 64


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


def draw_batch(
    pixels: np.ndarray, held_out: int, area: int, crop: bool, rng: np.random.Generator
) -> torch.Tensor:
    """About ``area`` pixels of pictures after the first ``held_out``: whole ones, or crops of CROP x CROP."""
    side = CROP if crop else pixels.shape[1]
    size = max(1, round(area / side**2))
    rows = rng.integers(held_out, len(pixels), size)
    tops, lefts = rng.integers(0, pixels.shape[1] - side + 1, (2, size))
    return as_batch(
        np.stack([pixels[r, y : y + side, x : x + side] for r, y, x in zip(rows, tops, lefts)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--lines", type=Path)
    parser.add_argument("--warm", type=Path, help="a diffusers VAE folder to begin with")
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
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)
    folders = (
        [arguments.art, arguments.art, arguments.lines] if arguments.lines else [arguments.art]
    )
    packed = [
        np.load(folder / f"pixels-{r}.npy", mmap_mode="r")
        for r in arguments.resolutions
        for folder in folders
    ]
    held_out = 48

    vae = AutoencoderKL(**CONFIG)
    if arguments.warm:
        vae.load_state_dict(AutoencoderKL.from_pretrained(arguments.warm).state_dict())
    vae.to(memory_format=torch.channels_last)
    checkpoint = arguments.work / ("vae-decoder.ckpt" if arguments.decoder_only else "vae.ckpt")
    if arguments.decoder_only:
        vae.load_state_dict(torch.load(arguments.work / "vae.ckpt", weights_only=True)["vae"])
        vae.encoder.requires_grad_(False), vae.quant_conv.requires_grad_(False)
    matrices, rest = muon.split(vae, ("conv_in", "conv_out", "quant_conv"))
    optimizers = [
        muon.Muon(matrices, 2.5 * arguments.lr),
        torch.optim.AdamW(rest, lr=arguments.lr, betas=(0.9, 0.99), weight_decay=0),
    ]
    peaks, start = [2.5 * arguments.lr, arguments.lr], 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        start = state["step"]
    rng = np.random.default_rng([arguments.seed, start])

    began, mean = time.time(), None
    for step in range(start, arguments.steps):
        factor = min(1, (step + 1) / 50) * (
            0.5 * (1 + math.cos(math.pi * step / arguments.steps)) + 0.01
        )
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * factor
        target = draw_batch(
            packed[step % len(packed)],
            held_out,
            arguments.area,
            step < arguments.crops * arguments.steps,
            rng,
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            posterior = vae.encode(target).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        loss = (
            F.l1_loss(decoded, target)
            + F.mse_loss(decoded, target)
            + 0.5 * edge_loss(decoded, target)
            + 1e-6 * posterior.kl().mean()
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        mean = loss.item() if mean is None else 0.99 * mean + 0.01 * loss.item()
        if (step + 1) % 250 == 0 or step + 1 == arguments.steps:
            values = [
                round(psnr(vae, np.asarray(pixels[:held_out])), 2)
                for pixels in packed[len(folders) // 3 :]
            ]
            print(
                f"step {step + 1}  {time.time() - began:.0f} s  loss {mean:.4f}  PSNR {values}",
                flush=True,
            )
            torch.save(
                {
                    "vae": vae.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1,
                },
                checkpoint.with_suffix(".tmp"),
            )
            checkpoint.with_suffix(".tmp").replace(checkpoint)


if __name__ == "__main__":
    main()
