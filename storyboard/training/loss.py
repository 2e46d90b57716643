"""The loss of a step: what the UNet should predict, and what weight each timestep has.

A new option is a field of ``Hyperparameters`` and a branch in ``timestep_weights`` (a weight) or
``training_target`` (another prediction). Weights are computed once, before the first step.
"""

import torch
from torch.nn import functional

from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.pipeline import TrainingPipeline


def timestep_weights(
    alphas_cumprod: torch.Tensor,
    high_noise: float,
    prediction_type: str = "epsilon",
    max_weight: float = Hyperparameters.max_timestep_weight,
) -> torch.Tensor:
    """(t,) weights of the squared error at each timestep.

    They add ``high_noise`` times the error in the picture to the loss. Without that, hardly
    anything is learnt at timesteps of a signal-to-noise ratio (SNR) near 0, where sampling decides
    on composition and mood.

    An error in the noise is ``SNR`` times that in the picture (https://arxiv.org/abs/2202.00512,
    section 4), so for epsilon the weight is ``1 + high_noise / SNR``, at most ``max_weight``. An
    error in the picture is ``sigma^2 = 1 - alphas_cumprod`` times that in v, so for v-prediction
    the weight is ``1 + high_noise sigma^2``.

    Args:
        alphas_cumprod: (t,) of the schedule; ``SNR = alphas_cumprod / (1 - alphas_cumprod)``.
    """
    if prediction_type == "v_prediction":
        return 1 + high_noise * (1 - alphas_cumprod)
    return (1 + high_noise * (1 - alphas_cumprod) / alphas_cumprod).clamp(max=max_weight)


def training_target(
    latents: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """What the UNet should predict.

    The noise, or ``v = alpha noise - sigma latents`` (https://arxiv.org/abs/2202.00512, section 4).
    """
    if prediction_type == "v_prediction":
        return alphas_cumprod.sqrt() * noise - (1 - alphas_cumprod).sqrt() * latents
    return noise


def diffusion_loss(
    pipe: TrainingPipeline,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    weights: torch.Tensor | None = None,
    picture_weights: torch.Tensor | None = None,
    **conditioning: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the prediction (https://arxiv.org/abs/2006.11239, eq. 14).

    Equal to DiffSynth's FlowMatchSFTLoss for one picture. Here each picture has a timestep of its
    own; DiffSynth's scheduler gives one to a whole batch.

    Args:
        latents, noise: (n, 4, h, w).
        timesteps: (n,) integers below ``num_train_timesteps``.
        weights: (t,) one for each of the schedule's timesteps; None is 1 for all.
        picture_weights: (n,) one for each picture; None is 1 for all.
        conditioning: prompt_embeds (n, l, d), pooled_prompt_embeds (n, d), add_time_ids (n, 6).
    """
    alphas_cumprod = pipe.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy_latents = alphas_cumprod.sqrt() * latents + (1 - alphas_cumprod).sqrt() * noise

    prediction = pipe.model_fn(
        unet=pipe.unet,
        latents=noisy_latents.to(pipe.torch_dtype),
        timestep=timesteps,
        **conditioning,
    )

    target = training_target(latents, noise, alphas_cumprod, pipe.base.prediction_type)
    errors = functional.mse_loss(prediction.float(), target.float(), reduction="none")
    loss = errors.mean((1, 2, 3))  # one for each picture
    if weights is not None:
        loss = loss * weights[timesteps]
    if picture_weights is not None:
        loss = loss * picture_weights
    return loss.mean()
