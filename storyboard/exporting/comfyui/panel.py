"""What of a panel stands in a graph.

A graph has neither fingerprints nor versions, so that no ``PanelRecord`` can be read from one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from storyboard.models import families
from storyboard.models.families import Family

PROMPTS = ("prompt", "negative_prompt")


@dataclass(frozen=True)
class GraphReference:
    """A reference in a graph.

    Attributes:
        file: Name of what the panel follows, beside the pictures.
        control, strength, end: As in ``Reference``.
        controlnet: Fingerprint of the ControlNet; None where it is not known.
    """

    file: str
    control: str
    strength: float
    end: float = 1.0
    controlnet: str | None = None


@dataclass(frozen=True)
class GraphPanel:
    """A panel in a graph.

    Attributes:
        base: Name of the base.
        family: Name of its family.
        is_folder: The base is a diffusers folder of the user's.
        lora: Digest or file of the LoRA; None for the base alone.
        lora_strength: What the panel was drawn with.
        lora_text_encoder: The LoRA has a part for the text encoders.
        chunks: The parts in which CLIP read a prompt, by ``prompt`` and ``negative_prompt``, where
            there were several.
        cut_elsewhere: ComfyUI may cut a prompt elsewhere than Storyboard did.
        character: It is drawn with character consistency.
        others: As in ``PanelRecord``.
    """

    base: str
    family: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_end: float = 1.0
    schedule_type: str = "Karras"
    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False
    clip_skip: int | None = None
    is_folder: bool = False
    lora: str | None = None
    lora_strength: float = 1.0
    lora_text_encoder: bool = False
    reference: GraphReference | None = None
    chunks: Mapping[str, list[str]] = field(default_factory=dict)
    cut_elsewhere: bool = False
    character: bool = False

    def text(self, name: str) -> str:
        """The prompt or the negative prompt."""
        return self.prompt if name == "prompt" else self.negative_prompt

    @property
    def clip_layer(self) -> int:
        """The layer of CLIP that is read, counted from the end; 0 for the family's usual one."""
        usual = family_of(self).clip_layer or 0
        return self.clip_skip if self.clip_skip and self.clip_skip > usual else 0


def family_of(panel: GraphPanel) -> Family:
    """The family of ``panel``; KeyError where it is not registered."""
    return families.by_name(panel.family)


def refusal(panel: GraphPanel) -> str:
    """Why no graph can draw ``panel``, and what to do; empty where one can."""
    try:
        family = family_of(panel)
    except KeyError:
        return f"is of the family {panel.family!r}, which is not registered: register it first"
    nodes = family.comfyui
    if panel.character:
        return (
            "is drawn with character consistency, for which ComfyUI itself has no node: "
            "draw the story without it"
        )
    if panel.prediction_type != "epsilon" and not nodes.predicts_v:
        return (
            f"is drawn by a {family.title} that predicts v, for which {nodes.pack} has no node: "
            "it has no graph"
        )
    if nodes.chooses_in_braces and any(_has_braces(panel.text(name)) for name in PROMPTS):
        return (
            f"has a pair of braces, among which {nodes.pack}'s text node chooses one at random: "
            "take them out of its prompts"
        )
    return ""


def _has_braces(text: str) -> bool:
    return bool(re.search(r"\{[^{}]*\}", text))
