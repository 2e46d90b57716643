"""The training loop: AdamW, gradient clipping, exact resume."""

import csv
import functools
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from storyboard import artifacts
from storyboard.compat.torch import memory_errors
from storyboard.errors import ResourceError
from storyboard.models.tensor_files import DamagedFile
from storyboard.training import schedule
from storyboard.training.batches import Batch, weighted_batches
from storyboard.training.cache import Cache
from storyboard.training.checkpoint import TrainingState
from storyboard.training.divergence import LossWatch
from storyboard.training.graphs import Replay
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.loss import diffusion_loss, timestep_weights
from storyboard.training.pipeline import TrainingPipeline
from storyboard.training.saving import Saving
from storyboard.training.workers import Alone

ALONE = Alone()
Gradients = Callable[[Batch, float], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What a finished step reports.

    Attributes:
        number: Steps that are done, of ``total``.
        loss: NaN before the first step.
    """

    number: int
    total: int
    loss: float
    learning_rate: float


def optimise(
    pipe: TrainingPipeline,
    cache: Cache,
    hyperparameters: Hyperparameters,
    saving: Saving,
    micro_batch_size: int,
    report: Callable[[Step], None],
    cuda_graphs: bool = False,
    prior: Cache | None = None,
    workers: Alone = ALONE,
) -> TrainingState:
    """Train the LoRA that was injected into ``pipe.unet``; returns what it ends with.

    A run that was interrupted goes on from ``saving.path`` and ends with the same weights as one
    that was not.

    Args:
        micro_batch_size: Pictures that are in the UNet at once.
        report: Called before the first step and after each, by the first worker.
        prior: Pictures of the base's own, which a share of each step are.

    Raises:
        TrainingError: The training diverged; the last checkpoint stays.
        TimeBudgetError: The time budget is over; the state is written.
        ResourceError: Not even one picture fits into memory.
    """
    # 1. Optimizer, and where an earlier run stopped
    total = hyperparameters.train_steps
    state = _training_state(pipe, hyperparameters)
    workers.shared(lambda: _go_on(state, saving.path, total))
    workers.equalise(state)
    first = len(state.losses)
    begun = Step(first, total, state.losses[-1] if first else math.nan, 0.0)
    saving.begin()
    workers.shared(lambda: report(begun))

    # 2. Batches and the function that adds their gradients
    steps = weighted_batches(cache, prior, pipe, hyperparameters, step=first)
    weights = _timestep_weights(pipe, hyperparameters)
    gradients = _gradients_of(pipe, state.scaler, weights, cuda_graphs)
    watch = _watch(weights, prior is not None, hyperparameters)

    for step in range(first, total):
        # 3. The loss of this step and its gradients
        batches = workers.part(next(steps))
        accumulate = functools.partial(
            _accumulate, gradients, state.optimizer, batches, micro_batch_size
        )
        loss, micro_batch_size = workers.summed(state.parameters.values(), accumulate)

        # 4. The weights
        rate = schedule.of_step(step, hyperparameters)
        _update(state, rate, hyperparameters.max_grad_norm)
        state.losses.append(loss)

        # 5. Report and checkpoint
        done = Step(step + 1, total, loss, rate)
        workers.shared(functools.partial(_after, done, state, watch, report, saving))
    return state


def write(state: TrainingState, hyperparameters: Hyperparameters, folder: Path) -> None:
    """Write ``loss.csv`` and ``training/state.safetensors`` into ``folder``."""
    lines = io.StringIO(newline="")
    table = csv.writer(lines)
    table.writerow(["step", "loss", "learning_rate"])
    for step, loss in enumerate(state.losses):
        rate = schedule.of_step(step, hyperparameters)
        table.writerow([step + 1, f"{loss:.6f}", f"{rate:.3e}"])
    artifacts.write_atomically(folder / "loss.csv", lines.getvalue())
    state.save(folder / "training" / "state.safetensors")


def _after(
    step: Step,
    state: TrainingState,
    watch: LossWatch,
    report: Callable[[Step], None],
    saving: Saving,
) -> None:
    watch.look(state.losses)  # here, before anything is written: all workers end then
    report(step)
    if step.number < step.total:
        saving.after(step.number, step.total, state)


def _go_on(state: TrainingState, checkpoint: Path, total: int) -> None:
    """Take the state of an interrupted run, if there is a whole one."""
    try:
        state.load(checkpoint, total)
    except FileNotFoundError:
        return
    except DamagedFile as error:
        print(
            f"train: {checkpoint}, the state to go on from, is damaged ({error}): "
            "training begins anew",
            flush=True,
        )
        return
    print(f"train: going on from step {len(state.losses)}", flush=True)


def trainable(unet: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights of the LoRA in ``unet`` by peft's names."""
    return {
        name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad
    }


def _training_state(pipe: TrainingPipeline, hyperparameters: Hyperparameters) -> TrainingState:
    """The LoRA as it was injected, with AdamW; a loss scaler works in fp16 alone."""
    parameters = trainable(pipe.unet)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=hyperparameters.learning_rate,
        betas=hyperparameters.betas,
        eps=hyperparameters.eps,
        weight_decay=hyperparameters.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(pipe.device_type, enabled=pipe.torch_dtype == torch.float16)
    return TrainingState(parameters, optimizer, scaler)


def _timestep_weights(pipe: TrainingPipeline, hyperparameters: Hyperparameters) -> torch.Tensor:
    return timestep_weights(
        pipe.alphas_cumprod,
        hyperparameters.high_noise_weight,
        hyperparameters.prediction_type,
        hyperparameters.max_timestep_weight,
    )


def _watch(weights: torch.Tensor, has_prior: bool, hyperparameters: Hyperparameters) -> LossWatch:
    batches = 1 + has_prior * hyperparameters.prior_loss_weight  # as of ``weighted_batches``
    return LossWatch(weights.mean().item() * batches, hyperparameters)


def _gradients_of(
    pipe: TrainingPipeline,
    scaler: torch.amp.GradScaler,
    weights: torch.Tensor,
    cuda_graphs: bool,
) -> Gradients:
    """``_add_gradients`` of a batch and its share, replayed as CUDA graphs if that is asked for."""
    gradients = functools.partial(_add_gradients, pipe, scaler, weights)
    return Replay(gradients) if cuda_graphs else gradients


def _add_gradients(
    pipe: TrainingPipeline,
    scaler: torch.amp.GradScaler,
    weights: torch.Tensor,
    batch: Batch,
    share: float,
) -> torch.Tensor:
    """Add the gradients of ``share`` of a step; returns its loss times ``share``."""
    loss = diffusion_loss(pipe, weights=weights, **batch) * share
    scaler.scale(loss).backward()
    return loss.detach()


def _accumulate(
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Batch, float]],
    micro_batch_size: int,
) -> tuple[float, int]:
    """Gradients of one step; returns its loss and the micro batch size that fitted.

    Where memory runs out, the size is halved and the step begins anew: the gradients are the same.

    Args:
        batches: With their weights; the loss is the weighted sum of their means.

    Raises:
        ResourceError: Not even one picture fits.
    """
    set_to_none = not isinstance(gradients, Replay)  # a CUDA graph knows the gradients' memory
    while True:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = 0.0
        try:
            with memory_errors():
                for batch, weight in batches:
                    for part, share in _micro_batches(batch, micro_batch_size):
                        loss += gradients(part, weight * share).item()
            return loss, micro_batch_size
        except torch.OutOfMemoryError as error:
            largest = max(len(batch["latents"]) for batch, _ in batches)
            micro_batch_size = _halved(micro_batch_size, largest, error)
        optimizer.zero_grad(set_to_none=set_to_none)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _micro_batches(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """Parts of ``size`` pictures at most, with their shares of the batch."""
    pictures = len(batch["latents"])
    for start in range(0, pictures, size):
        part = {name: tensor[start : start + size] for name, tensor in batch.items()}
        yield part, len(part["latents"]) / pictures


def _halved(micro_batch_size: int, pictures: int, error: torch.OutOfMemoryError) -> int:
    """Half the micro batch size, with a line that says so; ResourceError where it was 1."""
    if micro_batch_size == 1:
        raise ResourceError(
            "The memory of the card is too small for one picture: lower resolution, or set "
            "gradient_checkpointing=True, and run this cell again; it goes on from the last "
            "checkpoint."
        ) from error
    half = (min(micro_batch_size, pictures) + 1) // 2
    print(
        f"train: out of memory, going on with {half} pictures at a time "
        f"({pictures} a step as before)",
        flush=True,
    )
    return half


def _update(state: TrainingState, rate: float, max_grad_norm: float) -> None:
    """Clip the gradients and take AdamW's step."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.parameters.values(), max_grad_norm, foreach=True)
    state.scaler.step(state.optimizer)
    state.scaler.update()
