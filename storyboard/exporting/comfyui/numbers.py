"""The numbers of nodes in a graph: which node is which, when a graph is read back.

    1 to 9             the family's loaders, LoRA, ControlNets: what all panels share
    10 to 649          panel n: 10 n + part
    900 to 999         what all panels share and has no number below 10
    1010 to 64,999     panel n: 1000 n + part, for parts from 10

Graphs of earlier versions have the same numbers.
"""

from enum import IntEnum

from storyboard.models.families import Family
from storyboard.reference import CONTROLS
from storyboard.story import MAX_PANELS

PANEL = 10
SHARED = 900
FURTHER = 1000
assert PANEL * (MAX_PANELS + 1) <= SHARED

CONTROLNETS = tuple(control for control in CONTROLS if control != "image")
# What a graph has here unless a loader of the family has that number.
USUAL = {
    "lora": 2,
    "sampling": 3,
    "clip_layer": 4,
    "edges": 5,
    "depth": 6,
    "pose": 7,
    "segmentation": 8,
    "colour": 9,
}


class Part(IntEnum):
    """The nodes of a panel."""

    PROMPT = 0
    NEGATIVE_PROMPT = 1
    LATENTS = 2
    SAMPLER = 3
    DECODED = 5
    SAVED = 6
    PICTURE = 7
    REFERENCE = 8
    GUIDED_NEGATIVE = 10
    UNGUIDED_NEGATIVE = 11
    NEGATIVE = 12
    FURTHER_PROMPT = 100
    FURTHER_NEGATIVE_PROMPT = 500


def panel_node(panel: int, part: int) -> str:
    """The number of a node of ``panel``, which counts from 1."""
    return str(PANEL * panel + part if part < PANEL else FURTHER * panel + part)


def panel_and_part(number: int) -> tuple[int, int]:
    """What ``panel_node`` numbered so; panel 0 is what all panels share."""
    if SHARED <= number < FURTHER:
        return 0, PANEL + number - SHARED
    return divmod(number, PANEL if number < FURTHER else FURTHER)


def shared_nodes(family: Family) -> dict[str, str]:
    """Numbers of the LoRA, the sampling, CLIP's layer and each ControlNet, by name.

    Raises:
        ValueError: A loader of the family has a number that is not from 1 to 9.
    """
    taken = set(family.comfyui.loaders)
    if not taken <= set(map(str, range(1, PANEL))):
        raise ValueError(f"The family {family.name!r} must number its ComfyUI loaders from 1 to 9.")

    numbers, following = {}, SHARED
    for name in dict.fromkeys([*USUAL, *CONTROLNETS]):
        number = str(USUAL.get(name, SHARED))
        while number in taken:
            number, following = str(following), following + 1
        numbers[name] = number
        taken.add(number)
    return numbers
