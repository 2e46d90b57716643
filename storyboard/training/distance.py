"""How far a training set is from what the base draws, by the base's own loss."""

import json
import math

import torch

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.data.captions import Captions
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.seals import is_sealed, sealed
from storyboard.training import cache
from storyboard.training.cache import Cache
from storyboard.training.loss import diffusion_loss
from storyboard.training.pipeline import TrainingPipeline

TIMESTEPS = (0.2, 0.4, 0.6)  # as shares of the schedule: where the kinds of pictures differ most
PICTURES = 8
FILE = "distance.json"  # in <output>/cache


def kept(run: Run, captions: Captions, prior: Captions) -> float:
    """``measured``, from ``<output>/cache/distance.json`` if it was measured before."""
    path = run.folder / "cache" / FILE
    fingerprint = artifacts.fingerprint(
        stage="distance",
        captions=captions.digest,
        prior=prior.digest,
        base=run.base_fingerprint,
        resolution=run.resolution,
        timesteps=TIMESTEPS,
    )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # not measured yet, or damaged
        content = None
    if is_sealed(content) and content.get("fingerprint") == fingerprint:
        return content["distance"]

    own = cache.prepare(captions, run)
    of_base = cache.prepare(prior, run, name=cache.PRIOR)
    pipe = TrainingPipeline.load(run.base, ("unet",), run.plan.device, run.plan.dtype)
    distance = measured(pipe, own, of_base)
    artifacts.write_json(path, sealed({"fingerprint": fingerprint, "distance": distance}))
    return distance


@quiet()
def measured(pipe: TrainingPipeline, pictures: Cache, of_base: Cache) -> float:
    """How many times the loss on ``of_base`` that on ``pictures`` is, before any training.

    The geometric mean over TIMESTEPS, of at most PICTURES of each.
    """
    ratios = [
        _loss(pipe, pictures, share).item() / _loss(pipe, of_base, share).item()
        for share in TIMESTEPS
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


@torch.no_grad()
def _loss(pipe: TrainingPipeline, pictures: Cache, share: float) -> torch.Tensor:
    """The mean squared error of the prediction at ``share`` of the schedule, without weights."""
    timestep = round(share * pipe.base.num_train_timesteps)
    generator = torch.Generator().manual_seed(timestep)
    places = [
        (bucket, index)
        for bucket, latents in sorted(pictures.latents.items())
        for index in range(len(latents))
    ]
    count = min(PICTURES, len(places))
    chosen = [places[index * len(places) // count] for index in range(count)]

    losses = []
    for bucket, index in chosen:
        latents = pictures.latents[bucket][index : index + 1]
        caption = pictures.captions[bucket][index]
        prompt_embeds, pooled = conditioning.stack([pictures.embeddings[caption]])
        inputs = {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator),
            "timesteps": torch.tensor([timestep]),
            "prompt_embeds": prompt_embeds,
            "pooled_prompt_embeds": pooled,
            "add_time_ids": pictures.time_ids[bucket][index : index + 1],
        }
        on_device = {name: tensor.to(pipe.device) for name, tensor in inputs.items()}
        losses.append(diffusion_loss(pipe, **on_device).cpu())
    return torch.stack(losses).mean()
