"""Sampling that starts from a picture with noise on it (https://arxiv.org/abs/2108.01073)."""

from collections.abc import Sequence

import torch
from PIL import Image

from storyboard.compat import diffusers
from storyboard.compat.torch import true_fp32
from storyboard.models import loading as models
from storyboard.models.base import Base
from storyboard.rendering.annotators import as_tensor


@torch.no_grad()
def latents(pipe, images: Sequence[Image.Image]) -> torch.Tensor:
    """n pictures of (h, w) pixels -> scaled latents (n, 4, h / 8, w / 8), the mean of each."""
    vae = pipe.vae
    encoded = []
    with true_fp32(pipe.unet.dtype):
        for image in images:
            pixels = as_tensor(image)[None] * 2 - 1
            pixels = pixels.to(diffusers.execution_device(pipe), vae.dtype)
            encoded.append(vae.encode(pixels).latent_dist.mean)
        return torch.cat(encoded) * vae.config.scaling_factor


def pipeline(base: Base, pipe):
    """diffusers' image-to-image pipeline of the same modules as ``pipe``."""
    return models.pipeline(
        base,
        base.family.image_to_image,
        vae=pipe.vae,
        unet=pipe.unet,
        scheduler=pipe.scheduler,
    )


def skipped_steps(strength: float, steps: int) -> int:
    """Steps that are left out at the start, as diffusers counts them.

    Args:
        strength: Share of the picture that stays: 1 minus diffusers' own ``strength``.
    """
    return steps - min(int(steps * (1 - strength)), steps)
