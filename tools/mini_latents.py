"""Latents of the art for the training of ``mini``'s UNet, and weights of an error in them."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from tools import optimisation, train_vae

# one picture in so many also comes blurred, with a caption that says so, for negative prompts
BLURRED_EVERY = 30
MIN_PICTURES = 20  # of a style and expression, to take their mean


def load_vae(work: Path) -> AutoencoderKL:
    """The VAE that ``train_vae`` wrote; with its decoder as trained last."""
    newest = work / "vae-decoder.ckpt"
    checkpoint = newest if newest.exists() else work / "vae.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    vae = train_vae.network(state.get("widths", train_vae.CONFIG["block_out_channels"]))
    vae.load_state_dict(state["vae"])
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray | list[np.ndarray]) -> torch.Tensor:
    """uint8 (n, r, r, 3) -> means (n, 4, r / 8, r / 8), 16 pictures at a time."""
    with optimisation.bf16():
        parts = [
            vae.encode(
                train_vae.as_batch(np.asarray(pixels[start : start + 16]))
            ).latent_dist.mean.float()
            for start in range(0, len(pixels), 16)
        ]
    return torch.cat(parts)


def cached_latents(art: Path, work: Path, resolution: int) -> tuple[torch.Tensor, float]:
    """(n + n // BLURRED_EVERY, 4, r / 8, r / 8) of unit scale, and the factor that made them so."""
    target = work / f"latents-{resolution}.safetensors"
    if not target.exists():
        pixels = np.load(art / f"pixels-{resolution}.npy", mmap_mode="r")
        blur = ImageFilter.GaussianBlur(resolution / 80)
        blurred = [
            np.asarray(Image.fromarray(picture).filter(blur)) for picture in pixels[::BLURRED_EVERY]
        ]
        vae = load_vae(work)
        latents = torch.cat([encode(vae, pixels), encode(vae, blurred)])
        save_file({"latents": latents.contiguous()}, target.with_suffix(".tmp"))
        target.with_suffix(".tmp").replace(target)

    latents = load_file(target)["latents"]
    scale_file = work / "scaling_factor.json"  # measured once, at the first resolution
    if not scale_file.exists():
        scale_file.write_text(json.dumps(1 / latents.std().item()))
    factor = json.loads(scale_file.read_text())
    return latents * factor, factor


def error_weights(
    latents: torch.Tensor,
    rows: list[dict],
    face: float,
    prop: float,
    least: int = MIN_PICTURES,
) -> torch.Tensor:
    """(n, 1, h, w) of mean 1: what an error in each place of each picture counts.

    Faces and things are found in half figures that look to the right, and lie in other pictures
    where ``tools/framing.mjs`` put the figure.
    """
    usual = [index for index, row in enumerate(rows) if _framing(row) == (1, 0, 0, False)]
    usual_rows = [rows[index] for index in usual]
    faces = expression_weights(latents[usual], usual_rows, face, least)
    props = prop_weights(latents[usual], usual_rows, prop)
    # a thing that no half figure holds weighs nothing more
    weights = torch.stack([faces[row["style"]] * props.get(row.get("prop"), 1) for row in rows])

    # from a place in the picture, -1 to 1, back to the place in the half figure
    places = []
    for row in rows:
        scale, dx, dy, left = _framing(row)
        places.append(
            [
                [(-1 if left else 1) / scale, 0, (1 - dx / 128) / scale - 1],
                [0, 1 / scale, (1 - dy / 128) / scale - 1],
            ]
        )
    grid = F.affine_grid(weights.new_tensor(places), list(weights.shape), align_corners=False)
    placed = 1 + F.grid_sample(weights - 1, grid, align_corners=False)
    return placed / placed.mean((1, 2, 3), keepdim=True)


def _framing(row: dict) -> tuple[float, float, float, bool]:
    """Scale, dx and dy of the figure, in pixels of 256, and whether the picture is turned round."""
    placed = row.get("placed", {"scale": 1, "dx": 0, "dy": 0})
    return placed["scale"], placed["dx"], placed["dy"], row.get("facing") == "left"


def expression_weights(
    latents: torch.Tensor, rows: list[dict], strength: float, least: int = MIN_PICTURES
) -> dict[str, torch.Tensor]:
    """style -> (1, h, w) of mean 1, highest where the means of its expressions differ most."""
    weights = {}
    for style in sorted({row["style"] for row in rows}):
        means = []
        for expression in sorted({row["expression"] for row in rows}):
            chosen = [
                index
                for index, row in enumerate(rows)
                if (row["style"], row["expression"]) == (style, expression) and not row.get("prop")
            ]
            if len(chosen) > least:
                means.append(latents[chosen].mean(0))
        spread = torch.stack(means).var(0).sum(0, keepdim=True)
        weight = 1 + strength * (spread / spread.max()).sqrt()
        weights[style] = weight / weight.mean()
    return weights


def prop_weights(
    latents: torch.Tensor, rows: list[dict], strength: float
) -> dict[str | None, torch.Tensor]:
    """prop -> (1, h, w) of mean 1, highest where the mean picture changes when it is there."""

    def mean(prop: str | None) -> torch.Tensor:
        chosen = [index for index, row in enumerate(rows) if row.get("prop") == prop]
        return latents[chosen].mean(0)

    without = mean(None)
    weights: dict[str | None, torch.Tensor] = {None: torch.ones_like(without[:1])}
    for prop in sorted({row["prop"] for row in rows if row.get("prop")}):
        change = (mean(prop) - without).square().sum(0, keepdim=True)
        weight = 1 + strength * (change / change.max()).sqrt()
        weights[prop] = weight / weight.mean()
    return weights
