"""One file a family. ``register`` adds another; the last one registered is asked first."""

from storyboard.models.families import kolors, sd15, sdxl
from storyboard.models.families.family import ComfyNodes, Family, MemoryNeeds, NodeType
from storyboard.models.families.registry import by_name, by_pipeline, known, register

__all__ = [
    "ComfyNodes",
    "Family",
    "MemoryNeeds",
    "NodeType",
    "by_name",
    "by_pipeline",
    "known",
    "register",
]

for each in (kolors, sdxl, sd15):
    register(each.FAMILY)
