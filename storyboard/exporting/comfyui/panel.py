"""What a graph asks of a panel's record, and why some panels have no graph."""

import re

from storyboard.models import families
from storyboard.models.families import Family
from storyboard.records import PanelRecord


def family_of(panel: PanelRecord) -> Family:
    """The family of the base of ``panel``; KeyError where it is not registered."""
    return families.by_name(panel.base.family)


def clip_layer(panel: PanelRecord) -> int:
    """The layer of CLIP that is read, counted from the end; 0 for the family's usual one."""
    usual = family_of(panel).clip_layer or 0
    return panel.clip_skip if panel.clip_skip and panel.clip_skip > usual else 0


def starts_from_picture(panel: PanelRecord) -> bool:
    """Whether sampling starts from a picture (image-to-image)."""
    return panel.reference is not None and panel.reference.control == "image"


def refusal(panel: PanelRecord) -> str:
    """Why no graph can draw ``panel``, and what to do; empty where one can."""
    try:
        family = family_of(panel)
    except KeyError:
        return f"is of the family {panel.base.family!r}, which is not registered: register it first"
    nodes = family.comfyui
    if panel.character:
        return (
            "is drawn with character consistency, for which ComfyUI itself has no node: "
            "draw the story without it"
        )
    if panel.base.prediction_type != "epsilon" and not nodes.predicts_v:
        return (
            f"is drawn by a {family.title} that predicts v, for which {nodes.pack} has no node: "
            "it has no graph"
        )
    if nodes.chooses_in_braces and _has_braces(panel):
        return (
            f"has a pair of braces, among which {nodes.pack}'s text node chooses one at random: "
            "take them out of its prompts"
        )
    return ""


def _has_braces(panel: PanelRecord) -> bool:
    texts = (panel.prompt, panel.negative_prompt)  # each goes into a node of its own
    return any(re.search(r"\{[^{}]*\}", text) for text in texts)
