"""Sentences for a person whose pictures are too few for a LoRA, or too far from what a base draws.

How far is measured by the VAE: what it does not bring back of a picture no LoRA can draw.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from storyboard import images
from storyboard.errors import PictureError
from storyboard.models.base import Base
from storyboard.training.encoding import fit
from storyboard.training.pipeline import TrainingPipeline

FEWEST_PICTURES = 10
PICTURES = 4  # that are looked at
MARGIN = 8.0  # dB below the base's own styles, from where on small things are lost


def concerns(base: Base, pictures: int, paths: Sequence[Path]) -> list[str]:
    """What speaks against a set of so many ``pictures``, in a sentence each; usually nothing.

    Args:
        paths: Of the pictures, or of some of them.
    """
    sentences = []
    if pictures < FEWEST_PICTURES:
        sentences.append(
            f"{pictures} {'picture is' if pictures == 1 else 'pictures are'} too few for a LoRA, "
            f"which learns fewer than {FEWEST_PICTURES} by heart: add some"
        )
    if base.vae_psnr is None or base.folder is None:
        return sentences
    found = vae_psnr(base, paths)
    if found is not None and found < base.vae_psnr - MARGIN:
        sentences.append(
            f"these pictures are far from what {base.name} draws, its VAE brings them back at "
            f"{found:.1f} dB and its own styles at {base.vae_psnr:.1f}: eyes and thin lines will "
            "be coarse"
        )
    return sentences


def vae_psnr(base: Base, paths: Sequence[Path]) -> float | None:
    """PSNR in dB of pictures that went through the base's VAE and back; None of none.

    The mean over at most PICTURES of ``paths``, evenly spread, cropped to squares of the base's
    resolution; those that cannot be read are passed over.
    """
    count = min(PICTURES, len(paths))
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    pixels = [square for path in chosen if (square := _square(path, base.resolution)) is not None]
    if not pixels:
        return None

    pipe = TrainingPipeline.load(base, ("vae",), "cpu", torch.float32)
    return float(np.mean([_psnr(pipe, each) for each in pixels]))


@torch.no_grad()
def _psnr(pipe: TrainingPipeline, pixels: np.ndarray) -> float:
    """Of one picture (h, w, 3)."""
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = pipe.encode_images(image) / pipe.vae.config.scaling_factor
    decoded = pipe.vae.decode(latents).sample.clamp(-1, 1)
    error = ((decoded - image) / 2).square().mean()
    return -10 * error.clamp(min=1e-10).log10().item()


def _square(path: Path, side: int) -> np.ndarray | None:
    try:
        return fit(images.read(path).image, [(side, side)])[0]
    except PictureError:
        return None
