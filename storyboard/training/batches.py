"""Which pictures a step sees, in which order, with which noise, timesteps and captions.

Every random number comes from the seed and the number of the epoch or step, so that a run that was
interrupted goes on as if it had not been.
"""

import hashlib
import itertools
from collections.abc import Iterator

import torch

from storyboard.models import conditioning
from storyboard.training.cache import Cache
from storyboard.training.encoding import Bucket
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.pipeline import TrainingPipeline

Batch = dict[str, torch.Tensor]
PRIOR = "prior "  # stream of random numbers of the prior pictures
EMPTY_CAPTION = 0  # index of its embedding in the cache


def epoch_batches(
    cache: Cache, batch_size: int, seed: int, epoch: int, stream: str = ""
) -> list[tuple[Bucket, torch.Tensor]]:
    """Bucket and indices into it of each batch of an epoch, in order.

    Every picture is in one batch. Batches do not cross buckets, so that the last of a bucket may be
    smaller.

    Args:
        stream: Name of the random numbers, apart from those of other names.
    """
    generator = _generator(seed, f"{stream}order", epoch)
    batches = []
    for bucket, latents in sorted(cache.latents.items()):
        order = torch.randperm(len(latents), generator=generator)
        batches += [(bucket, indices) for indices in order.split(batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def batches_from(
    cache: Cache, batch_size: int, seed: int, step: int, stream: str = ""
) -> Iterator[tuple[Bucket, torch.Tensor]]:
    """The batches of ``step`` and of all steps after it, without end; steps count from 0."""
    for epoch in itertools.count():
        batches = epoch_batches(cache, batch_size, seed, epoch, stream)
        yield from batches[step:]
        step = max(0, step - len(batches))


def weighted_batches(
    cache: Cache,
    prior: Cache | None,
    pipe: TrainingPipeline,
    hyperparameters: Hyperparameters,
    step: int,
) -> Iterator[list[tuple[Batch, float]]]:
    """What ``step`` and all steps after it see: batches with their weights in the loss.

    One of the training set with weight 1, and with ``prior`` one of that, with the prior loss
    weight (https://arxiv.org/abs/2208.12242, eq. 2); both in one where their shapes are the same.
    """
    together = hyperparameters.train_batch_size
    if prior is None:
        parts = [(cache, together, "", 1.0)]
    else:
        of_prior = max(1, round(together * hyperparameters.prior_share))
        parts = [
            (cache, max(1, together - of_prior), "", 1.0),
            (prior, of_prior, PRIOR, hyperparameters.prior_loss_weight),
        ]

    seed, dropout = hyperparameters.seed, hyperparameters.caption_dropout
    orders = [batches_from(part, size, seed, step, stream) for part, size, stream, _ in parts]
    for number in itertools.count(step):
        batches = [
            (draw_batch(part, *next(order), pipe, seed, number, dropout, stream), weight)
            for order, (part, _, stream, weight) in zip(orders, parts, strict=True)
        ]
        yield _together(batches)


def _together(batches: list[tuple[Batch, float]]) -> list[tuple[Batch, float]]:
    """The same loss with fewer calls of the UNet: batches of equal shapes as one."""
    shapes = {tuple(tensor.shape[1:] for tensor in batch.values()) for batch, _ in batches}
    if len(batches) == 1 or len(shapes) > 1:
        return batches
    pictures = sum(len(batch["latents"]) for batch, _ in batches)
    together = {name: torch.cat([batch[name] for batch, _ in batches]) for name in batches[0][0]}
    together["picture_weights"] = torch.cat(
        [
            torch.full_like(
                batch["timesteps"], weight * pictures / len(batch["latents"]), dtype=torch.float32
            )
            for batch, weight in batches
        ]
    )
    return [(together, 1.0)]


def draw_batch(
    cache: Cache,
    bucket: Bucket,
    indices: torch.Tensor,
    pipe: TrainingPipeline,
    seed: int,
    step: int,
    caption_dropout: float = Hyperparameters.caption_dropout,
    stream: str = "",
) -> Batch:
    """A batch with its noise, timesteps and conditioning on the device, as ``diffusion_loss`` asks.

    The timesteps are stratified: each picture's is drawn from its own of n equal intervals. Losses
    of different batches then differ less (https://arxiv.org/abs/2107.00630, appendix I.1).

    Args:
        stream: As of ``epoch_batches``.
    """
    generator = _generator(seed, f"{stream}step", step)
    latents = cache.latents[bucket][indices]
    noise = torch.randn(latents.shape, generator=generator)

    n = len(indices)
    offsets = torch.rand(n, generator=generator, dtype=torch.float64)
    timesteps = ((torch.arange(n) + offsets) / n * pipe.base.num_train_timesteps).long()

    dropped = torch.rand(n, generator=generator) < caption_dropout
    captions = torch.where(dropped, EMPTY_CAPTION, cache.captions[bucket][indices])
    embeddings = (cache.embeddings[caption] for caption in captions.tolist())
    prompt_embeds, pooled_prompt_embeds = conditioning.stack(embeddings)

    batch = {
        "latents": latents.contiguous(memory_format=torch.channels_last),
        "noise": noise,
        "timesteps": timesteps,
        "prompt_embeds": prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "add_time_ids": cache.time_ids[bucket][indices],
    }
    return {name: tensor.to(pipe.device) for name, tensor in batch.items()}


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A stream of its own for each purpose and number; seeds of more than 64 bits differ too."""
    mixed = hashlib.sha256(f"{seed}-{purpose}-{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
