"""A panel's reference in a ComfyUI graph: a ControlNet on its prompts, or a picture that sampling starts from."""

import itertools
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from storyboard.errors import SettingsError
from storyboard.exporting.nodes import key, node
from storyboard.models import bases
from storyboard.reference import CONTROLS

FIRST = 5  # number of the first ControlNet's loader, one a kind of control
SHOWN, APPLIED = 7, 8  # of a panel's nodes
LOADERS = {"KolorsPipeline": "MZ_KolorsControlNetLoader"}
NAMED = 999  # the last timestep that a percentage can name
LEAST = 0.001  # a percentage of 0 would switch the ControlNet off


def loaders(panels: list[dict], base: str, pipeline: str, models: dict[str, str]) -> dict:
    """A loader for each kind of ControlNet that ``panels`` follow; ``models`` names files by kind.

    Raises:
        SettingsError: Two ControlNets of one kind.
    """
    found: dict[str, set] = {}
    for said in (panel["reference"] for panel in panels if "reference" in panel):
        found.setdefault(said["control"], set()).add(said.get("controlnet"))
    if twice := [control for control, several in found.items() if len(several) > 1]:
        raise SettingsError(
            f"Two ControlNets follow {twice[0]} in these panels, where the graph has one loader for each kind: draw them with one."
        )
    kind = LOADERS.get(pipeline, "ControlNetLoader")
    return {
        _loader(control): node(
            kind, control_net_name=models.get(control, f"{base}-{control}.safetensors")
        )
        for control in CONTROLS
        if control in found.keys() - {"image"}
    }


def files(api: dict) -> dict[str, str]:
    """The ControlNets' files in a graph, by kind."""
    return {
        control: api[_loader(control)]["inputs"]["control_net_name"]
        for control in CONTROLS[:-1]
        if _loader(control) in api
    }


def _loader(control: str) -> str:
    return str(FIRST + CONTROLS.index(control))


def nodes(
    place: int, panel: dict, positive: list, negative: list, vae: list
) -> tuple[dict, list, list]:
    """What the reference of ``panel`` adds, and where positive and negative come from then.

    For ``control="image"`` the latents, node 2, are the picture's.
    """
    said, shown, applied = panel["reference"], key(place, SHOWN), key(place, APPLIED)
    api = {shown: node("LoadImage", image=said["file"])}
    if said["control"] == "image":
        api[applied] = node(
            "ImageScale",
            image=[shown, 0],
            upscale_method="bicubic",
            width=panel["width"],
            height=panel["height"],
            crop="center",
        )
        api[key(place, 2)] = node("VAEEncode", pixels=[applied, 0], vae=vae)
        return api, positive, negative
    percent = end_percents(
        panel["pipeline"], panel["steps"], panel.get("zero_terminal_snr", False)
    )[steps_with(said["end"], panel["steps"])]
    api[applied] = node(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=negative,
        control_net=[_loader(said["control"]), 0],
        image=[shown, 0],
        strength=float(said["strength"]),
        start_percent=0.0,
        end_percent=percent,
    )
    return api, [applied, 0], [applied, 1]


def first_step(panel: dict) -> int:
    """The step that sampling begins with, from 0: image-to-image leaves out the first ones, as diffusers counts them."""
    said, steps = panel.get("reference", {}), panel["steps"]
    return (
        steps - min(int(steps * (1 - said["strength"])), steps)
        if said.get("control") == "image"
        else 0
    )


def steps_with(end: float, steps: int) -> int:
    """How many of ``steps`` the ControlNet takes part in, as rendering/control.py counts."""
    return sum(step / steps <= end for step in range(1, steps + 1))


@lru_cache
def end_percents(pipeline: str, steps: int, zero_terminal_snr: bool = False) -> list[float]:
    """``end_percent`` for what ends after 0, 1, ... ``steps`` steps.

    ComfyUI compares sigmas, with that of timestep ``999 (1 - percent)`` (comfy/model_sampling.py, percent_to_sigma): one
    between those of the last step with and the first without. Timesteps beyond 999, which Kolors has, cannot be named:
    what ends there ends a few steps later (``late_end``).
    """
    timesteps = _timesteps(pipeline, steps, zero_terminal_snr)
    between = [
        max(LEAST, round(1 - (one + other) / 2 / NAMED, 6))
        for one, other in itertools.pairwise(timesteps)
    ]
    return [0.0, *between, 1.0]


@lru_cache
def _timesteps(pipeline: str, steps: int, zero_terminal_snr: bool) -> list[int]:
    from storyboard.rendering import sampling

    base = next(
        base for base in map(bases.get, ("kolors", "sdxl", "sd15")) if base.pipeline == pipeline
    )
    sampler = sampling.scheduler(
        replace(base, zero_terminal_snr=zero_terminal_snr)
    )  # timesteps do not ask what is predicted
    sampler.set_timesteps(steps)
    return sampler.timesteps.tolist()


def share(pipeline: str, steps: int, percent: float, zero_terminal_snr: bool = False) -> float:
    """The share of ``steps`` after which what has this ``end_percent`` ends; ValueError where nothing ends there."""
    percents = end_percents(pipeline, steps, zero_terminal_snr)
    return max(step for step, each in enumerate(percents) if each == percent) / steps


def late_end(panel: dict, last_guided: int) -> int:
    """The step after which guidance or the ControlNet of ``panel`` ends there, if that is later than asked; else 0."""
    timesteps = _timesteps(panel["pipeline"], panel["steps"], panel.get("zero_terminal_snr", False))
    earliest = sum(timestep > NAMED * (1 - LEAST) for timestep in timesteps)
    asked = [last_guided] if last_guided > first_step(panel) else []
    if "end" in panel.get("reference", {}):
        asked.append(steps_with(panel["reference"]["end"], panel["steps"]))
    return earliest if any(0 < step < earliest for step in asked) else 0


def read(api: dict, place: int, pipeline: str, zero_terminal_snr: bool = False) -> dict:
    """``{"reference": ...}`` of panel ``place`` of a graph as ``nodes`` made it; empty where it follows none.

    Raises:
        ValueError, LookupError: It is not as ``nodes`` makes it, or names a picture in another folder.
    """
    at = lambda part: api[key(place, part)]["inputs"]
    if key(place, SHOWN) not in api:
        return {}
    said, steps = {"file": at(SHOWN)["image"]}, at(3)["steps"]
    if Path(said["file"]).name != said["file"]:
        raise ValueError(said["file"])
    if api[key(place, APPLIED)]["class_type"] == "ImageScale":
        first = at(3)["start_at_step"]
        return {
            "reference": said | {"control": "image", "strength": max(0.0, (first - 0.5) / steps)}
        }  # halfway, so that rounding meets the step again
    applied = at(APPLIED)
    said |= {
        "control": CONTROLS[int(applied["control_net"][0]) - FIRST],
        "strength": applied["strength"],
    }
    return {
        "reference": said
        | {"end": share(pipeline, steps, applied["end_percent"], zero_terminal_snr)}
    }
