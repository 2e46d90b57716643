"""The loss on held-out pictures along a training, for ``benchmarks.training``."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from storyboard.data.captions import Captions
from storyboard.models.run import Run
from storyboard.training import cache, loss
from storyboard.training.pipeline import TrainingPipeline

MEASUREMENTS = 8  # along the way
DRAWS = 8  # of noise and timestep for a held-out picture


class Validation:
    """Measures any contender's UNet with fixed noise and timesteps, and what measuring cost.

    Args:
        folder: Captions of the held-out pictures.
        samples: Pictures that the training sees in all.

    Attributes:
        curve: (clock without what measuring cost, loss) at each measurement.
        cost: Seconds that measuring took.
    """

    def __init__(self, run: Run, folder: Path, samples: int) -> None:
        began = time.perf_counter()
        own = replace(run, folder=folder.parent / "validation-cache")
        self.cached = cache.prepare(Captions.load(folder), own)
        self.pipe = TrainingPipeline(run.base, run.plan.device, run.plan.dtype)
        self.fixed = self._fixed_draws(run.base.num_train_timesteps)
        self.due = {round(samples * part / MEASUREMENTS) for part in range(1, MEASUREMENTS + 1)}
        self.curve: list[tuple[float, float]] = []
        self.cost = time.perf_counter() - began

    def _fixed_draws(self, num_train_timesteps: int) -> dict:
        """bucket -> noise (DRAWS, 4, h, w) and timesteps (DRAWS,), spread evenly, a picture."""
        generator = torch.Generator().manual_seed(0)
        spread = torch.arange(DRAWS) + torch.rand(DRAWS, generator=generator)
        timesteps = (spread / DRAWS * num_train_timesteps).long()
        return {
            bucket: [
                (torch.randn(DRAWS, *latents.shape[1:], generator=generator), timesteps)
                for _ in latents
            ]
            for bucket, latents in sorted(self.cached.latents.items())
        }

    def loss(self, unet: torch.nn.Module) -> float:
        """Mean squared error of the noise that ``unet`` predicts."""
        self.pipe.unet = unet
        values = []
        with torch.no_grad():
            for bucket, draws in self.fixed.items():
                for index, (noise, timesteps) in enumerate(draws):
                    values.append(self._picture_loss(bucket, index, noise, timesteps))
        return sum(values) / len(values)

    def _picture_loss(
        self, bucket: tuple[int, int], index: int, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> float:
        device = self.pipe.device
        caption = self.cached.embeddings[self.cached.captions[bucket][index]]
        conditioning = {
            "prompt_embeds": caption.tokens,
            "pooled_prompt_embeds": caption.pooled,
            "add_time_ids": self.cached.time_ids[bucket][index],
        }
        latents = self.cached.latents[bucket][index].expand(DRAWS, -1, -1, -1)
        return loss.diffusion_loss(
            self.pipe,
            latents.to(device),
            noise.to(device),
            timesteps.to(device),
            **{
                name: tensor.expand(DRAWS, *tensor.shape).to(device)
                for name, tensor in conditioning.items()
            },
        ).item()

    def after_step(self, samples: int, unet: torch.nn.Module) -> None:
        """Measure when as many ``samples`` have been seen as the next measurement is due at."""
        if samples < min(self.due, default=samples + 1):
            return
        self.due = {due for due in self.due if due > samples}
        began = time.perf_counter()
        self.curve.append((began - self.cost, self.loss(unet)))
        self.cost += time.perf_counter() - began
