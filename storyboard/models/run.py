"""A run: what the settings come to on this base and this machine, every value filled in."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from storyboard.errors import SettingsError
from storyboard.models import bases, memory, weights
from storyboard.models.base import Base
from storyboard.models.memory import Plan
from storyboard.settings import CLIP_LAYER_LIMIT, Settings

CHARACTER_STRENGTH = {"shared": 1.0, "ip-adapter": 0.6}


@dataclass(frozen=True)
class Run:
    """What a stage works with; ``resolve`` makes it.

    Attributes:
        settings: What the user wrote.
        base: With its weights on this machine.
        base_fingerprint: SHA-256 over the files of the base.
        plan: How the machine is used.
        folder: Where the stages write.
        seed, resolution, ...: As in ``Settings``; None only where it means "not at all", and for
            ``clip_skip`` the base's usual layer.
    """

    settings: Settings
    base: Base
    base_fingerprint: str
    plan: Plan
    folder: Path
    seed: int
    resolution: int
    rank: int
    alpha: float
    learning_rate: float
    train_steps: int
    train_batch_size: int
    prior_loss_weight: float
    caption_dropout: float
    num_inference_steps: int
    guidance_scale: float
    guidance_end: float
    lora_strength: float
    render_batch_size: int
    character: str | None
    character_strength: float | None
    character_picture: str | None
    text_encoder_bits: int | None
    clip_skip: int | None


FROM_SETTINGS = tuple(
    field.name
    for field in fields(Run)
    if field.name not in ("settings", "base", "base_fingerprint", "plan", "folder")
)


def resolve(settings: Settings) -> Run:
    """Fetch the base, take its fingerprint, plan the memory and fill in every setting.

    Raises:
        SettingsError: There is no such base, or a setting does not go with it.
        BaseError: No hub has its weights, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    return run_on(weights.fetch(check(settings)), settings)


def run_on(base: Base, settings: Settings) -> Run:
    """The run of ``settings`` on a base whose weights are at hand, whatever base they name.

    Raises:
        SettingsError: A setting does not go with the base.
    """
    check_fits(base, settings)
    return Run(
        settings=settings,
        base=base,
        base_fingerprint=base.fingerprint(),
        plan=memory.plan(base, settings),
        folder=settings.folder,
        **filled(settings, base),
    )


def check(settings: Settings) -> Base:
    """The base of ``settings``, not fetched yet, if all settings go with it.

    Raises:
        SettingsError: There is no such base, or a setting does not go with it.
        BaseError: What lies at the path cannot be fine-tuned here.
    """
    base = bases.get(settings.base or bases.default())
    check_fits(base, settings)
    return base


def check_fits(base: Base, settings: Settings) -> None:
    """Raise SettingsError where a setting does not go with ``base``."""
    resolution = settings.resolution or base.resolution
    if resolution % base.resolution_step:
        raise SettingsError(
            f"resolution={resolution} must be a multiple of {base.resolution_step} "
            f"for the base {base.name!r}."
        )
    if settings.character == "ip-adapter" and base.ip_adapter is None:
        raise SettingsError(
            f'The base {base.name!r} has no IP-Adapter: set character="shared", or another base.'
        )
    if settings.clip_skip is None:
        return
    if base.clip_layer is None:
        raise SettingsError(
            f"clip_skip={settings.clip_skip} belongs to CLIP, which the base {base.name!r} "
            "does not have: leave it None."
        )
    if settings.clip_skip < base.clip_layer:
        raise SettingsError(
            f"clip_skip={settings.clip_skip} must be a whole number "
            f"from {base.clip_layer} to {CLIP_LAYER_LIMIT}."
        )


def filled(settings: Settings, base: Base) -> dict[str, Any]:
    """Every setting that ``Run`` has, by name: the user's, or the base's where that is None."""
    values: dict[str, Any] = {}
    for name in FROM_SETTINGS:
        own = getattr(settings, name)
        values[name] = getattr(base, name, None) if own is None else own
    if values["alpha"] is None:
        values["alpha"] = float(values["rank"])
    if settings.character and settings.character_strength is None:
        values["character_strength"] = CHARACTER_STRENGTH[settings.character]
    return values


def settings_everywhere(settings: Settings) -> Settings:
    """``settings`` for a process with another working folder."""
    changes: dict[str, Any] = {"output": str(settings.folder.resolve()), "cluster": None}
    for name in ("base", "character_picture"):
        value = getattr(settings, name)
        if value and value not in bases.names():
            changes[name] = absolute(value)
    return settings.but(**changes)


def absolute(value: str | Path) -> str:
    """A path that is there, made absolute; an id at the hubs stays as it is."""
    path = bases.existing(value)
    return str(path.resolve()) if path else str(value)
