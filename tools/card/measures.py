"""How well a VAE gives pictures back, by set, and what it looks like."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tools.card import patches
from tools.card.card_run import CardRun
from tools.card.gallery import Gallery, as_floats

ROOT = Path(__file__).resolve().parents[2]
TESTED = 24  # pictures of tests/test_mini.py
SHOWN = 5  # pictures of a set in the sheet


def square(path: Path, side: int) -> np.ndarray:
    """The middle of a picture, uint8 (side, side, 3)."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    short = min(rgb.size)
    left, top = (rgb.width - short) // 2, (rgb.height - short) // 2
    middle = rgb.crop((left, top, left + short, top + short))
    return np.asarray(middle.resize((side, side), Image.LANCZOS))


def sample_set(side: int) -> np.ndarray:
    """The good pictures of the sample set, whose style no training sees: uint8 (n, s, s, 3)."""
    folder = ROOT / "data" / "sample"
    flaws = json.loads((ROOT / "data" / "sample_labels.json").read_text())
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    names = sorted({json.loads(line)["file_name"] for line in lines} - flaws.keys())
    return np.stack([square(folder / name, side) for name in names])


def tested_lorelei(side: int) -> np.ndarray:
    """The pictures that ``tests/test_mini.py`` measures the VAE on."""
    folder = ROOT / "benchmarks" / "renders"
    rows = json.loads((folder / "meta.json").read_text())
    ids = [row["id"] for row in rows if row["style"] == "lorelei"][:TESTED]
    return np.stack([square(folder / f"{number}.webp", side) for number in ids])


class Measures:
    """Sets that no training sees, on the card.

    Args:
        pictures: set -> uint8 (n, s, s, 3), beside the gallery's held-out drawings.
    """

    def __init__(
        self, card_run: CardRun, gallery: Gallery, pictures: dict[str, np.ndarray]
    ) -> None:
        self.card_run, self.gallery = card_run, gallery
        side, device = gallery.side, card_run.device
        sample = torch.from_numpy(sample_set(side)).to(device)
        # distances are to one half of the sample set; the VAE draws pictures of the other
        self.real, self.other = (as_floats(half) / 2 + 0.5 for half in (sample[::2], sample[1::2]))
        tested = 2 if card_run.dry else TESTED
        self.other = self.other[:: max(1, len(self.other) // tested)][:tested]
        self.fixed = {"lorelei": torch.from_numpy(tested_lorelei(side)).to(device)}
        for name, pixels in pictures.items():
            self.fixed[name] = torch.from_numpy(np.stack([_fit(p, side) for p in pixels])).to(
                device
            )
        card_run.note("real against real", distance=_distance(self.other, self.real))

    def sets(self) -> dict[str, torch.Tensor]:
        drawn = {name: self.gallery.held_out(name) for name in self.gallery.sources}
        every = self.fixed | {name: pixels for name, pixels in drawn.items() if len(pixels)}
        return {name: pixels[:2] for name, pixels in every.items()} if self.card_run.dry else every

    @torch.no_grad()
    def measure(self, vae: AutoencoderKL) -> dict[str, object]:
        """PSNR in dB by set, and the patch distance of the sample set's pictures."""
        decibels = {}
        for name, pixels in self.sets().items():
            target = as_floats(pixels)
            error = (reconstruct(vae, target) - target).square().mean((1, 2, 3))
            decibels[name] = round((10 * torch.log10(4 / error)).mean().item(), 2)
        decoded = reconstruct(vae, self.other * 2 - 1) / 2 + 0.5
        return {"PSNR": decibels, "distance": _distance(decoded, self.real)}

    @torch.no_grad()
    def sheet(self, vae: AutoencoderKL) -> Image.Image:
        """Rows of pictures, below each the same through the VAE."""
        sets = self.sets()
        order = [*self.fixed, *(name for name in sets if name not in self.fixed)]
        rows = []
        for name in order[:9]:
            target = as_floats(sets[name][:: max(1, len(sets[name]) // SHOWN)][:SHOWN])
            rows += [target, reconstruct(vae, target)]
        strips = [torch.cat(list(row), 2) for row in rows]
        width = min(strip.shape[2] for strip in strips)
        picture = torch.cat([strip[:, :, :width] for strip in strips], 1)
        pixels = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0)
        return Image.fromarray(pixels.cpu().numpy())


def _fit(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.LANCZOS))


def reconstruct(vae: AutoencoderKL, target: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] through the VAE, a few at a time."""

    def through(some: torch.Tensor) -> torch.Tensor:
        return vae.decode(vae.encode(some).latent_dist.mean).sample.clamp(-1, 1)

    fast = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # few batches of each shape
    decoded = torch.cat([through(some) for some in target.split(16)])
    torch.backends.cudnn.benchmark = fast
    return decoded


def _distance(pictures: torch.Tensor, real: torch.Tensor) -> list[float]:
    return [round(each, 1) for each in patches.distance(pictures, real)]
