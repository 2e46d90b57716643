"""One file a family. ``register`` adds another; the last one registered is asked first."""

from storyboard.models.families import kolors, sd15, sdxl
from storyboard.models.families.family import (
    ComfyNodes,
    Family,
    Lookalike,
    MemoryNeeds,
    NodeType,
    SingleFile,
)
from storyboard.models.families.registry import (
    by_name,
    by_pipeline,
    forget,
    known,
    register,
    titles,
)

__all__ = [
    "ComfyNodes",
    "Family",
    "Lookalike",
    "MemoryNeeds",
    "NodeType",
    "SingleFile",
    "by_name",
    "by_pipeline",
    "forget",
    "known",
    "register",
    "titles",
]

for each in (sd15, sdxl, kolors):  # Kolors before SDXL, whose class the original Kolors names
    register(each.FAMILY)
