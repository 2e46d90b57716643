"""The parts of our LoRA training that benchmarks call, in one place."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from storyboard.models.run import Run
from storyboard.training import batches, loop, loss
from storyboard.training.cache import Cache
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.injection import inject
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.saving import Saving


def load(run: Run) -> TrainingPipeline:
    """The UNet of ``run.base`` with a LoRA in it, as ``storyboard.train`` loads it."""
    pipe = TrainingPipeline.load(run.base, ("unet",), run.plan.device, run.plan.dtype)
    inject(pipe, Hyperparameters.of(run))
    return pipe


def first_batch(cache: Cache, size: int) -> tuple[tuple[int, int], torch.Tensor]:
    """Bucket and indices of the first batch of ``size`` pictures."""
    return batches.epoch_batches(cache, size, seed=0, epoch=0)[0]


def backward(
    pipe: TrainingPipeline,
    cache: Cache,
    bucket: tuple[int, int],
    indices: torch.Tensor,
    memory_format: torch.memory_format = torch.channels_last,
) -> None:
    """Add the gradients of one batch."""
    drawn = batches.draw_batch(cache, bucket, indices, pipe, seed=0, step=0)
    drawn["latents"] = drawn["latents"].contiguous(memory_format=memory_format)
    loss.diffusion_loss(pipe, **drawn).backward()


def flops(pipe: TrainingPipeline, cache: Cache, size: int) -> float:
    """Floating point operations of a step for one picture of a batch of ``size``, by PyTorch."""
    bucket, indices = first_batch(cache, size)
    with FlopCounterMode(display=False) as counter:
        backward(pipe, cache, bucket, indices)
    return counter.get_total_flops() / len(indices)


def optimise(
    pipe: TrainingPipeline,
    cache: Cache,
    run: Run,
    folder: Path,
    watch: Callable[[loop.Step], None],
    *,
    micro_batch_size: int | None = None,
    cuda_graphs: bool = False,
) -> dict[str, torch.Tensor]:
    """Train from the start, without a checkpoint to go on from; the LoRA as peft names it."""
    return loop.optimise(
        pipe,
        cache,
        Hyperparameters.of(run),
        Saving(folder / "state.safetensors"),
        micro_batch_size or run.plan.train_micro_batch_size,
        watch,
        cuda_graphs,
    ).weights()
