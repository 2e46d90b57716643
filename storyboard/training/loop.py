"""The training loop: buckets in batches, AdamW, warm-up and cosine, clipping, NaN guard, exact resume."""

import csv
import functools
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from storyboard.errors import ResourceError, TrainingError
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.training.cache import Cache
from storyboard.training.graphs import Replay
from storyboard.training.pipeline import TrainingPipeline

WARMUP = 0.05  # of all steps
FLOOR = 0.02  # of the peak learning rate, at the end
CAPTION_DROPOUT = 0.1  # trained without caption, so that guidance has a style to push off from
MAX_GRAD_NORM = 1.0
MAX_WEIGHT = 50.0


@dataclass(frozen=True)
class Step:
    """What a finished step tells whoever watches."""

    number: int
    total: int
    loss: float
    learning_rate: float
    seconds_left: float


def learning_rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to FLOOR * peak (https://arxiv.org/abs/1608.03983); ``step`` counts from 0."""
    warm = max(1, round(WARMUP * total))
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


def timestep_weights(
    alphas_cumprod: torch.Tensor, high_noise: float, prediction_type: str = "epsilon"
) -> torch.Tensor:
    """(t,) weights ``1 + high_noise / SNR`` of the error in the noise, at most MAX_WEIGHT; of that in v ``1 + high_noise sigma^2``.

    An error in the noise is ``SNR`` times that in the picture (https://arxiv.org/abs/2202.00512, section 4), so this
    adds ``high_noise`` times the picture's error to the loss. Without it hardly anything is learnt where SNR is near
    0, and it is there that sampling decides on place and mood. An error in the picture is ``sigma^2 = 1 - alphas_cumprod``
    times that in v, which already is all of it where SNR is 0.
    """
    if prediction_type == "v_prediction":
        return 1 + high_noise * (1 - alphas_cumprod)
    return (1 + high_noise * (1 - alphas_cumprod) / alphas_cumprod).clamp(max=MAX_WEIGHT)


def training_target(
    latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """What the UNet shall predict: the noise, or ``v = alpha noise - sigma latents`` (https://arxiv.org/abs/2202.00512, section 4)."""
    if prediction_type == "v_prediction":
        return alphas_cumprod.sqrt() * noise - (1 - alphas_cumprod).sqrt() * latents
    return noise


def diffusion_loss(
    pipe: TrainingPipeline,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    weights: torch.Tensor | None = None,
    **conditioning: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the predicted noise (https://arxiv.org/abs/2006.11239, eq. 14) or v, a timestep for each picture.

    DiffSynth's FlowMatchSFTLoss for one picture; its scheduler gives one timestep to a whole batch.

    Args:
        latents, noise: (n, 4, h, w); timesteps: (n,) integers below ``num_train_timesteps``.
        weights: One for each of the schedule's timesteps; None is 1 for all.
        conditioning: prompt_embeds (n, l, d), pooled_prompt_embeds (n, d), add_time_ids (n, 6).
    """
    alphas = pipe.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    predicted = pipe.model_fn(
        unet=pipe.unet, latents=noisy.to(pipe.torch_dtype), timestep=timesteps, **conditioning
    )
    target = training_target(latents, noise, alphas, pipe.base.prediction_type)
    error = torch.nn.functional.mse_loss(predicted.float(), target.float(), reduction="none").mean(
        (1, 2, 3)
    )
    return (error if weights is None else error * weights[timesteps]).mean()


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A stream of its own for each purpose and number, whatever the size of the seed."""
    mixed = hashlib.sha256(f"{seed}-{purpose}-{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)


def batches(
    cache: Cache, size: int, seed: int, epoch: int
) -> list[tuple[tuple[int, int], torch.Tensor]]:
    """The epoch's order: every picture once, no batch across buckets, batches shuffled; the same for the same seed."""
    generator = _generator(seed, "order", epoch)
    found = []
    for bucket, latents in sorted(cache.latents.items()):
        found += [
            (bucket, indices)
            for indices in torch.randperm(len(latents), generator=generator).split(size)
        ]
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def optimise(
    pipe: TrainingPipeline,
    cache: Cache,
    run: Run,
    folder: Path,
    checkpoint: Path,
    at_once: int,
    watch: Callable[[Step], None],
    cuda_graphs: bool = False,
) -> dict[str, torch.Tensor]:
    """Train the LoRA that was injected into ``pipe.unet``, ``at_once`` pictures at a time; returns its peft state.

    Every random number of a step comes from the seed and the step's number: a run that was broken off and goes on
    from ``checkpoint`` ends with the same weights as one that was not.

    Raises:
        TrainingError: The loss is not finite; the last checkpoint stays.
        ResourceError: Not even one picture fits into memory.
    """
    named = {
        name: parameter
        for name, parameter in pipe.unet.named_parameters()
        if parameter.requires_grad
    }
    optimizer = torch.optim.AdamW(
        named.values(), lr=run.learning_rate, weight_decay=1e-2, fused=True
    )
    scaler = torch.amp.GradScaler(pipe.device_type, enabled=pipe.torch_dtype == torch.float16)
    weights = timestep_weights(
        pipe.alphas_cumprod, pipe.base.high_noise_weight, pipe.base.prediction_type
    )
    compute = functools.partial(_gradients, pipe, scaler, weights)
    if cuda_graphs:
        compute = Replay(compute)
    losses = _resume(named, optimizer, scaler, checkpoint) if checkpoint.exists() else []
    first, total, began = len(losses), run.train_steps, time.perf_counter()
    order, epoch, place = _position(cache, run, first)
    watch(Step(first, total, losses[-1] if losses else math.nan, 0.0, math.nan))
    for step in range(first, total):
        if place == len(order):
            epoch, place = epoch + 1, 0
            order = batches(cache, run.train_batch_size, run.seed, epoch)
        bucket, indices = order[place]
        place += 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, run.learning_rate)
        drawn = draw_batch(cache, bucket, indices, pipe, run.seed, step)
        value, at_once = _accumulate(compute, optimizer, drawn, at_once)
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} at step {step + 1} of {total}: halve learning_rate ({run.learning_rate:g}) and run this cell again; the earlier LoRA is untouched."
            )
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(named.values(), MAX_GRAD_NORM, foreach=True)
        scaler.step(optimizer)
        scaler.update()
        losses.append(value)
        done = step + 1 - first
        watch(
            Step(
                step + 1,
                total,
                value,
                optimizer.param_groups[0]["lr"],
                (time.perf_counter() - began) / done * (total - step - 1),
            )
        )
        if (step + 1) % max(1, total // 4) == 0 and step + 1 < total:
            _keep(named, optimizer, scaler, losses, checkpoint)
    _write_losses(losses, run, folder / "loss.csv")
    _keep(named, optimizer, scaler, losses, folder / "training" / "state.safetensors")
    return {name: parameter.detach().cpu() for name, parameter in named.items()}


def _gradients(
    pipe: TrainingPipeline,
    scaler: torch.amp.GradScaler,
    weights: torch.Tensor,
    part: dict[str, torch.Tensor],
    share: float,
) -> torch.Tensor:
    """Add the gradients of ``part``, which is ``share`` of a step's pictures; returns its loss times ``share``."""
    loss = diffusion_loss(pipe, weights=weights, **part) * share
    scaler.scale(loss).backward()
    return loss.detach()


def _accumulate(
    compute: Callable[[dict[str, torch.Tensor], float], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    drawn: dict[str, torch.Tensor],
    at_once: int,
) -> tuple[float, int]:
    """Gradients of one step, ``at_once`` pictures at a time; returns its loss and how many fitted at once.

    Where memory runs out, half as many are taken and the step begins anew: the gradients are the same.

    Raises:
        ResourceError: Not even one picture fits.
    """
    pictures = len(drawn["latents"])
    in_place = isinstance(compute, Replay)
    while True:
        optimizer.zero_grad(set_to_none=not in_place)
        value = 0.0
        try:
            for start in range(0, pictures, at_once):
                part = {name: tensor[start : start + at_once] for name, tensor in drawn.items()}
                value += compute(part, len(part["latents"]) / pictures).item()
            return value, at_once
        except torch.OutOfMemoryError as error:
            if at_once == 1:
                raise ResourceError(
                    "The memory of the card is too small for one picture: lower resolution, or set gradient_checkpointing=True, and run this cell again; it goes on from the last checkpoint."
                ) from error
            at_once = (min(at_once, pictures) + 1) // 2
            print(
                f"train: out of memory, going on with {at_once} pictures at a time ({pictures} a step as before)",
                flush=True,
            )
        optimizer.zero_grad(set_to_none=not in_place)
        if drawn["latents"].is_cuda:
            torch.cuda.empty_cache()


def _position(cache: Cache, run: Run, step: int) -> tuple[list, int, int]:
    """Order, epoch and place in it at which ``step`` begins."""
    epoch, order = 0, batches(cache, run.train_batch_size, run.seed, 0)
    while step > len(order):
        step -= len(order)
        epoch += 1
        order = batches(cache, run.train_batch_size, run.seed, epoch)
    return order, epoch, step


def draw_batch(
    cache: Cache,
    bucket: tuple[int, int],
    indices: torch.Tensor,
    pipe: TrainingPipeline,
    seed: int,
    step: int,
) -> dict[str, torch.Tensor]:
    """A batch with its noise, timesteps and conditioning, on the device: what ``diffusion_loss`` takes.

    Every picture has its timestep from a stretch of its own, all stretches of the same length: losses of different
    batches then differ less (https://arxiv.org/abs/2107.00630, appendix I.1).
    """
    generator = _generator(seed, "step", step)
    latents = cache.latents[bucket][indices]
    noise = torch.randn(latents.shape, generator=generator)
    spread = (
        torch.arange(len(indices))
        + torch.rand(len(indices), generator=generator, dtype=torch.float64)
    ) / len(indices)
    timesteps = (spread * pipe.base.num_train_timesteps).long()
    said = cache.captions[bucket][indices]
    said = torch.where(torch.rand(len(indices), generator=generator) < CAPTION_DROPOUT, 0, said)
    prompt_embeds, pooled = conditioning.stack(
        cache.embeddings[caption] for caption in said.tolist()
    )
    batch = {
        "latents": latents,
        "noise": noise,
        "timesteps": timesteps,
        "prompt_embeds": prompt_embeds,
        "pooled_prompt_embeds": pooled,
        "add_time_ids": cache.time_ids[bucket][indices],
    }
    batch["latents"] = batch["latents"].contiguous(memory_format=torch.channels_last)
    return {name: tensor.to(pipe.device) for name, tensor in batch.items()}


def _keep(
    named: dict,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    losses: list[float],
    path: Path,
) -> None:
    """LoRA, AdamW's moments, the loss scaler and the losses so far, in one safetensors file."""
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    tensors |= {
        f"scaler.{name}": torch.tensor(value, dtype=torch.float64)
        for name, value in scaler.state_dict().items()
    }
    for name, parameter in named.items():
        state = optimizer.state[parameter]
        if not state:  # every step so far overflowed in fp16
            state = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        tensors["step"] = state["step"]
        tensors |= {
            f"lora.{name}": parameter.detach(),
            f"exp_avg.{name}": state["exp_avg"],
            f"exp_avg_sq.{name}": state["exp_avg_sq"],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def _resume(
    named: dict, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, path: Path
) -> list[float]:
    tensors = load_file(path)
    losses = tensors["losses"].tolist()
    for name, parameter in named.items():
        parameter.data.copy_(tensors[f"lora.{name}"])
        # fused AdamW walks through memory: the moments must lie as the parameter does
        moments = {
            kind: torch.empty_like(parameter).copy_(tensors[f"{kind}.{name}"])
            for kind in ("exp_avg", "exp_avg_sq")
        }
        optimizer.state[parameter] = {
            "step": tensors["step"].to(parameter.device, copy=True)
        } | moments  # fewer steps than losses where fp16 overflowed
    if scaler.is_enabled():
        kept = {
            name.removeprefix("scaler."): tensor.item()
            for name, tensor in tensors.items()
            if name.startswith("scaler.")
        }
        scaler.load_state_dict(
            {name: type(value)(kept[name]) for name, value in scaler.state_dict().items()}
        )
    print(f"train: going on from step {len(losses)}", flush=True)
    return losses


def _write_losses(losses: list[float], run: Run, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["step", "loss", "learning_rate"])
        for step, loss in enumerate(losses):
            table.writerow(
                [
                    step + 1,
                    f"{loss:.6f}",
                    f"{learning_rate(step, run.train_steps, run.learning_rate):.3e}",
                ]
            )
