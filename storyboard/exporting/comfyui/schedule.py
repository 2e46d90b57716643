"""Steps and ComfyUI's percentages: where guidance or a ControlNet ends, where sampling begins."""

import itertools
from dataclasses import replace

from storyboard.errors import SettingsError
from storyboard.exporting.comfyui.panel import starts_from_picture
from storyboard.models import bases
from storyboard.models.base import Base
from storyboard.records import PanelRecord

LAST_NAMED = 999  # the last timestep that a percentage can name
LEAST_PERCENT = 0.001  # 0 would switch a ControlNet off

_timesteps_of: dict[tuple, tuple[int, ...]] = {}  # a scheduler takes milliseconds to make


def first_step(panel: PanelRecord) -> int:
    """The step, from 0, that sampling begins with.

    Image-to-image leaves out the first ones, as diffusers counts them.
    """
    if not starts_from_picture(panel):
        return 0
    return panel.steps - min(int(panel.steps * (1 - panel.reference.strength)), panel.steps)


def guided_steps(panel: PanelRecord) -> int:
    """How many steps have guidance, counted from step 0, as ``rendering.sampling`` counts."""
    return round(panel.steps * panel.guidance_end)


def controlled_steps(end: float, steps: int) -> int:
    """How many of ``steps`` the ControlNet takes part in, as ``rendering.controlnet`` counts."""
    return sum(step / steps <= end for step in range(1, steps + 1))


def end_percents(family: str, steps: int, zero_terminal_snr: bool = False) -> list[float]:
    """``end_percent`` for what ends after 0, 1, ... ``steps`` steps.

    ComfyUI compares sigmas, with that of timestep ``999 (1 - percent)`` (comfy/model_sampling.py,
    percent_to_sigma): one between those of the last step with and the first without. Timesteps
    beyond 999, which Kolors has, cannot be named: what ends there ends a few steps later
    (``late_end``).
    """
    timesteps = _timesteps(family, steps, zero_terminal_snr)
    between = [
        max(LEAST_PERCENT, round(1 - (one + other) / 2 / LAST_NAMED, 6))
        for one, other in itertools.pairwise(timesteps)
    ]
    return [0.0, *between, 1.0]


def end_share(family: str, steps: int, percent: float, zero_terminal_snr: bool = False) -> float:
    """The share of ``steps`` after which what has this ``end_percent`` ends.

    Raises:
        ValueError: Nothing ends there.
    """
    percents = end_percents(family, steps, zero_terminal_snr)
    return max(step for step, each in enumerate(percents) if each == percent) / steps


def late_end(panel: PanelRecord) -> int:
    """The step after which guidance or a ControlNet ends in ComfyUI, if later than set; else 0."""
    timesteps = _timesteps(panel.base.family, panel.steps, panel.base.zero_terminal_snr)
    earliest = sum(timestep > LAST_NAMED * (1 - LEAST_PERCENT) for timestep in timesteps)

    ends = []
    if guided_steps(panel) > first_step(panel):
        ends.append(guided_steps(panel))
    if panel.reference and not starts_from_picture(panel):
        ends.append(controlled_steps(panel.reference.end, panel.steps))
    return earliest if any(0 < step < earliest for step in ends) else 0


def _timesteps(family: str, steps: int, zero_terminal_snr: bool) -> tuple[int, ...]:
    """The timesteps that the sampler of ``family`` takes; they do not depend on the prediction."""
    from storyboard.rendering import sampling

    base = replace(_base_of(family), zero_terminal_snr=zero_terminal_snr)
    key = (base.num_train_timesteps, base.beta_start, base.beta_end, zero_terminal_snr, steps)
    if key not in _timesteps_of:
        sampler = sampling.scheduler(base)
        sampler.set_timesteps(steps)
        _timesteps_of[key] = tuple(sampler.timesteps.tolist())
    return _timesteps_of[key]


def _base_of(family: str) -> Base:
    """A base of ``family``, whose bases have one noise schedule."""
    for base in map(bases.get, bases.names()):
        if base.family.name == family:
            return base
    raise SettingsError(f"No base of the family {family!r} is registered: register one first.")
