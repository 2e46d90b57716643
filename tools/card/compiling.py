"""Compile beside the training: another process fills the compiler's cache, then we read it.

``torch.compile`` of the VAE and of the UNet, forward and backward, takes a minute each, in which
the card would stand still. So the training begins without, and changes over when
``python -m tools.card.compiling`` has compiled the same graphs. If that fails, nothing is lost.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from tools import text, train_vae

ROOT = Path(__file__).resolve().parents[2]


class Beside:
    """The other process, and what it has compiled so far."""

    def __init__(self, options: list[str], wanted: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.process: subprocess.Popen | None = None
        if wanted:
            command = [sys.executable, "-m", "tools.card.compiling", str(self.folder), *options]
            self.process = subprocess.Popen(command, cwd=ROOT)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def wait(self, seconds: float) -> None:
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)

    def end(self) -> None:
        if self.process:
            self.process.kill()


def vae_forward(
    vae: AutoencoderKL, target: torch.Tensor
) -> tuple[torch.Tensor, DiagonalGaussianDistribution]:
    """Pictures (n, 3, h, w) decoded from a sample of their latents; the latents' distribution."""
    with torch.autocast(target.device.type, torch.bfloat16):
        posterior = vae.encode(target).latent_dist
        return vae.decode(posterior.sample()).sample, posterior


def compile_vae(vae: AutoencoderKL) -> None:
    vae.encoder.compile(dynamic=False)
    vae.decoder.compile(dynamic=False)


def back_to_eager(*modules: torch.nn.Module) -> None:
    """Undo ``Module.compile``."""
    for module in modules:
        module._compiled_call_impl = None


def trainable_vae(widths: list[int], device: torch.device) -> AutoencoderKL:
    """As both processes build it: the cache's key is the whole graph, layouts included."""
    return train_vae.network(widths).to(device, memory_format=torch.channels_last).eval()


def _vae(widths: list[int], batch: int, side: int, device: torch.device) -> None:
    vae = trainable_vae(widths, device)
    compile_vae(vae)
    target = torch.rand(batch, 3, side, side, device=device)
    decoded, _ = vae_forward(vae, target.contiguous(memory_format=torch.channels_last))
    decoded.float().square().mean().backward()


def _unet(batch: int, side: int, device: torch.device) -> None:
    from tools.card.unet import trainable  # here, because that module imports this one

    mini = trainable(device)
    mini.unet.compile(dynamic=False)
    noisy = torch.randn(batch, 4, side // 8, side // 8, device=device)
    place = torch.arange(text.LENGTH, device=device).expand(batch, -1)
    tokens = {
        "input_ids": torch.ones_like(place),
        "attention_mask": (place > text.LENGTH // 2).long(),
        "position_ids": place,
    }
    encoded = mini.encode(tokens)
    with torch.autocast(device.type, torch.bfloat16):
        noise_pred = mini.predict(
            noisy.contiguous(memory_format=torch.channels_last), place[:, 0], encoded, side
        )
    noise_pred.float().square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets a file when a network is compiled")
    parser.add_argument("--widths", type=int, nargs=4, required=True)
    parser.add_argument("--vae-batch", type=int, required=True, help="0 for the UNet alone")
    parser.add_argument("--unet-batch", type=int, required=True)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    device = torch.device(arguments.device)
    if arguments.vae_batch:
        _vae(arguments.widths, arguments.vae_batch, arguments.side, device)
        (arguments.folder / "vae").touch()
    _unet(arguments.unet_batch, arguments.side, device)
    (arguments.folder / "unet").touch()


if __name__ == "__main__":
    main()
