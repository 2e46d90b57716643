"""Everything that determines a LoRA besides captions, base and software, in one record."""

from dataclasses import dataclass

from storyboard.models.run import Run


@dataclass(frozen=True)
class Hyperparameters:
    """What a LoRA is trained by; all of it is in the fingerprint of training.

    How the machine is used (micro batches, gradient checkpointing, CUDA graphs, the device) is in
    ``run.plan``: it changes a LoRA by rounding alone.

    Attributes:
        seed: Of data order, noise, timesteps, caption dropout and initialisation.
        resolution: Side of a square of the same area as the pictures, pixels.
        rank, alpha: Of the LoRA, whose scale is ``alpha / rank``.
        targets: Modules of the UNet that get a LoRA, as ``Base.lora_targets``.
        learning_rate: At the peak.
        train_steps: Optimizer steps.
        train_batch_size: Pictures in a step, prior pictures included.
        prior_loss_weight: As in ``Settings``; 0 draws no prior pictures.
        caption_dropout: Share of pictures that are seen with the empty caption: classifier-free
            guidance needs a prediction without a caption (https://arxiv.org/abs/2207.12598).
        precision: Of the base; the LoRA itself is fp32.
        clip_skip: As in ``Settings``; None reads captions where the base usually does.
        text_encoder_bits: As in ``Settings``; None is a text encoder that is not quantised.
        prediction_type: What the UNet predicts, as ``Base.prediction_type``.
        num_train_timesteps, beta_start, beta_end, zero_terminal_snr: The noise schedule, as of
            ``Base``.
        resolution_step: Divides the sides of a bucket, as ``Base.resolution_step``.
        high_noise_weight: As ``Base.high_noise_weight``; ``loss.timestep_weights`` has the formula.
        max_timestep_weight: Ceiling of a timestep's weight in the loss.
        prior_share: Of a batch, that are prior pictures; at least one, beside at least one of the
            training set.
        prior_pictures: How many different ones there are.
        warmup: Share of the steps in which the learning rate rises.
        learning_rate_floor: The learning rate at the end, as a share of the peak.
        weight_decay, betas, eps: Of AdamW (https://arxiv.org/abs/1711.05101).
        max_grad_norm: Gradients of a step are scaled down to this norm.
        max_bucket_ratio: Longer to shorter side of a bucket, at most.
    """

    seed: int
    resolution: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    learning_rate: float
    train_steps: int
    train_batch_size: int
    prior_loss_weight: float
    precision: str
    clip_skip: int | None
    text_encoder_bits: int | None
    prediction_type: str
    num_train_timesteps: int
    beta_start: float
    beta_end: float
    zero_terminal_snr: bool
    resolution_step: int
    high_noise_weight: float
    max_timestep_weight: float = 50.0
    caption_dropout: float = 0.1
    prior_share: float = 1 / 3
    prior_pictures: int = 48
    warmup: float = 0.05
    learning_rate_floor: float = 0.02
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    max_bucket_ratio: float = 2.0

    @classmethod
    def of(cls, run: Run) -> "Hyperparameters":
        """What ``run`` is trained by."""
        return cls(
            seed=run.seed,
            resolution=run.resolution,
            rank=run.rank,
            alpha=run.alpha,
            targets=tuple(run.base.lora_targets),
            learning_rate=run.learning_rate,
            train_steps=run.train_steps,
            train_batch_size=run.train_batch_size,
            prior_loss_weight=run.prior_loss_weight,
            caption_dropout=run.caption_dropout,
            precision=run.plan.precision,
            clip_skip=run.clip_skip,
            text_encoder_bits=run.text_encoder_bits,
            prediction_type=run.base.prediction_type,
            num_train_timesteps=run.base.num_train_timesteps,
            beta_start=run.base.beta_start,
            beta_end=run.base.beta_end,
            zero_terminal_snr=run.base.zero_terminal_snr,
            resolution_step=run.base.resolution_step,
            high_noise_weight=run.base.high_noise_weight,
        )
