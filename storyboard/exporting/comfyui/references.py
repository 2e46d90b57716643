"""A panel's reference in a graph: a ControlNet on its prompts, or a picture to start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from storyboard.errors import SettingsError
from storyboard.exporting.comfyui import schedule
from storyboard.exporting.comfyui.nodes import node
from storyboard.exporting.comfyui.numbers import CONTROLNETS, Part, panel_node, shared_nodes
from storyboard.exporting.comfyui.panel import family_of, starts_from_picture
from storyboard.models.families import Family
from storyboard.records import PanelRecord, ReferenceRecord

SCALED = "ImageScale"


def loaders(panels: Sequence[PanelRecord], models: Mapping[str, str]) -> dict:
    """A loader for each kind of ControlNet that ``panels`` follow.

    Args:
        models: Files by kind.

    Raises:
        SettingsError: Two ControlNets of one kind.
    """
    controlnets: dict[str, set] = {}
    for reference in (panel.reference for panel in panels if panel.reference):
        controlnets.setdefault(reference.control, set()).add(reference.controlnet)
    several = [control for control, each in controlnets.items() if len(each) > 1]
    if several:
        raise SettingsError(
            f"Two ControlNets follow {several[0]} in these panels, where the graph has one loader "
            "for each kind: draw them with one."
        )

    base, family = panels[0].base.name, family_of(panels[0])
    numbers = shared_nodes(family)
    return {
        numbers[control]: node(
            family.comfyui.controlnet,
            control_net_name=models.get(control, f"{base}-{control}.safetensors"),
        )
        for control in CONTROLNETS
        if control in controlnets
    }


def files(api: dict, family: Family) -> dict[str, str]:
    """The ControlNets' files in a graph, by kind."""
    numbers = shared_nodes(family)
    return {
        control: api[numbers[control]]["inputs"]["control_net_name"]
        for control in CONTROLNETS
        if numbers[control] in api
    }


def build(
    number: int, panel: PanelRecord, positive: list, negative: list, vae: list
) -> tuple[dict, list, list]:
    """What the reference of panel ``number`` adds, and where to take positive and negative from.

    For ``control="image"`` the latents are the picture's.
    """
    reference = panel.reference
    picture, applied = (panel_node(number, part) for part in (Part.PICTURE, Part.REFERENCE))
    api = {picture: node("LoadImage", image=reference.file)}

    if starts_from_picture(panel):
        api[applied] = node(
            SCALED,
            image=[picture, 0],
            upscale_method="bicubic",
            width=panel.width,
            height=panel.height,
            crop="center",
        )
        latents = panel_node(number, Part.LATENTS)
        api[latents] = node("VAEEncode", pixels=[applied, 0], vae=vae)
        return api, positive, negative

    percents = schedule.end_percents(panel.base.family, panel.steps, panel.base.zero_terminal_snr)
    api[applied] = node(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=negative,
        control_net=[shared_nodes(family_of(panel))[reference.control], 0],
        image=[picture, 0],
        strength=float(reference.strength),
        start_percent=0.0,
        end_percent=percents[schedule.controlled_steps(reference.end, panel.steps)],
    )
    return api, [applied, 0], [applied, 1]


def read(
    api: dict, number: int, family: Family, zero_terminal_snr: bool = False
) -> ReferenceRecord | None:
    """The reference of panel ``number`` of a graph as ``build`` made it; None where it has none.

    Raises:
        ValueError, LookupError: It is not as ``build`` makes it, or names a picture in another
            folder.
    """
    picture, applied = (panel_node(number, part) for part in (Part.PICTURE, Part.REFERENCE))
    if picture not in api:
        return None
    file = api[picture]["inputs"]["image"]
    if Path(file).name != file:
        raise ValueError(file)

    sampler, inputs = api[panel_node(number, Part.SAMPLER)]["inputs"], api[applied]["inputs"]
    steps = sampler["steps"]
    if api[applied]["class_type"] == SCALED:
        # halfway between two steps, so that rounding gives the same one again
        strength = max(0.0, (sampler["start_at_step"] - 0.5) / steps)
        return ReferenceRecord(control="image", strength=strength, file=file)

    numbers = shared_nodes(family)
    controls = {numbers[control]: control for control in CONTROLNETS}
    end = schedule.end_share(family.name, steps, inputs["end_percent"], zero_terminal_snr)
    return ReferenceRecord(
        control=controls[inputs["control_net"][0]],
        strength=inputs["strength"],
        file=file,
        end=end,
        prepared=True,
    )
