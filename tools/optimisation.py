"""What the trainings of ``mini`` share: noise, learning rate, optimizers, EMA, checkpoints."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tools import muon

SCHEDULE = {
    "num_train_timesteps": 1100,
    "beta_start": 0.00085,
    "beta_end": 0.014,
    "beta_schedule": "scaled_linear",
}
# added to min-SNR's weight of an error in the picture: SNR near 0 decides on place and mood
HIGH_NOISE = 0.3
MAX_WEIGHT = 50.0
FLOOR = 0.01  # of the peak learning rate, at the end


def bf16(wanted: bool = True) -> torch.autocast:
    """bf16 where the CPU computes in it; one that imitates it takes ten times as long as fp32."""
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted and has_bf16)


def alphas_cumprod() -> torch.Tensor:
    """(t,) of the noise schedule."""
    start, end = SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5
    betas = torch.linspace(start, end, SCHEDULE["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


def timestep_weights(alphas: torch.Tensor, min_snr_gamma: float) -> torch.Tensor:
    """(t,) weights of an error in the noise: min-SNR (https://arxiv.org/abs/2303.09556), more."""
    snr = alphas / (1 - alphas)
    return ((snr.clamp(max=min_snr_gamma) + HIGH_NOISE) / snr).clamp(max=MAX_WEIGHT)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """Latents (n, 4, h, w) at the noise levels ``alphas`` (n,)."""
    signal = alphas.view(-1, 1, 1, 1)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    return noisy.contiguous(memory_format=torch.channels_last)


def decay(step: int, total: int, warm: int) -> float:
    """Factor of the learning rate: linear warm-up, cosine down to FLOOR."""
    return min(1, (step + 1) / warm) * cosine(step / total)


def cosine(part: float) -> float:
    """Factor of the learning rate when ``part`` of the training is over, 1 down to FLOOR."""
    return 0.5 * (1 + math.cos(math.pi * min(part, 1))) + FLOOR


class Optimizers:
    """Muon for matrices and convolutions, AdamW for the rest.

    Args:
        exclude: Modules with one of these words in their names go to AdamW.
        lr: Peak of AdamW's learning rate.
        muon_factor: Muon's is so many times as high.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        exclude: tuple[str, ...],
        lr: float,
        muon_factor: float,
        betas: tuple[float, float],
    ) -> None:
        matrices, rest = muon.split(model, exclude)
        self.parameters = matrices + rest
        self.peaks = [muon_factor * lr, lr]
        self.each = [
            muon.Muon(matrices, muon_factor * lr),
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0),
        ]

    def set_learning_rates(self, factor: float) -> None:
        for optimizer, peak in zip(self.each, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor

    def zero_grad(self) -> None:
        for optimizer in self.each:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.each:
            optimizer.step()

    def state_dicts(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.each]

    def load(self, states: Sequence[dict]) -> None:
        for optimizer, state in zip(self.each, states, strict=True):
            optimizer.load_state_dict(state)


class Phases:
    """``resolution:steps:batch`` one after the other."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.each = [tuple(map(int, text.split(":"))) for text in texts]
        self.total = sum(steps for _, steps, _ in self.each)

    def at(self, step: int) -> tuple[int, int]:
        """Resolution and batch size at ``step``."""
        end = 0
        for resolution, steps, batch in self.each:
            end += steps
            if step < end:
                return resolution, batch
        raise ValueError(f"There is no step {step}: the phases have {self.total}.")


def update_ema(
    ema: list[torch.Tensor], parameters: list[torch.Tensor], step: int, limit: float
) -> None:
    """Move ``ema`` towards ``parameters``, faster at the start; ``limit`` is the decay later on."""
    with torch.no_grad():
        current = [parameter.detach() for parameter in parameters]
        torch._foreach_lerp_(ema, current, 1 - min(limit, (1 + step) / (10 + step)))


def save_whole(state: dict, path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
