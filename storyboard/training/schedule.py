"""The learning rate of each step: warm-up, then a cosine."""

import math

from storyboard.training.hyperparameters import Hyperparameters


def learning_rate(
    step: int,
    total: int,
    peak: float,
    warmup: float = Hyperparameters.warmup,
    floor: float = Hyperparameters.learning_rate_floor,
) -> float:
    """Linear warm-up, then a cosine down to ``floor * peak`` (https://arxiv.org/abs/1608.03983).

    Args:
        step: Counts from 0.
        warmup: Share of ``total``.
    """
    warmup_steps = max(1, round(warmup * total))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def of_step(step: int, hyperparameters: Hyperparameters) -> float:
    """``learning_rate`` after ``step`` steps of a training."""
    return learning_rate(
        step,
        hyperparameters.train_steps,
        hyperparameters.learning_rate,
        hyperparameters.warmup,
        hyperparameters.learning_rate_floor,
    )
