"""What the forms with peft's dotted names have in common: the names, and the other way round."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from storyboard.errors import LoraError
from storyboard.lora import kinds
from storyboard.lora.configuration import WRAPPER
from storyboard.lora.names import ModulePath, dotted_name, kohya_name, shown
from storyboard.lora.state import LoraState

# peft's a.b.lora_A.weight; diffusers' of 2023, a.b.lora.down.weight and
# a.b.lora_linear_layer.down.weight; and of 2022, attn1.processor.to_q_lora.down.weight
MATRIX = re.compile(
    r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.\w+)?\.weight"
)
# the parts of other kinds, as LyCORIS and peft name them: a.b.hada_w1_a
OF_KIND = re.compile(rf"(?P<module>.+)\.(?P<suffix>{'|'.join(map(re.escape, kinds.SUFFIXES))})")
SIDES = {"A": "down", "B": "up", "down": "down", "up": "up"}


class Dotted(NamedTuple):
    """The name of a tensor: module, with its component where the form writes it, and part."""

    module: str
    part: str


def split(key: str) -> Dotted | None:
    """``base_model.model.a.b.lora_A.default.weight`` -> ``a.b``, ``down``; None for others."""
    name = key.removeprefix(WRAPPER)
    match = MATRIX.fullmatch(name)
    if match:
        return Dotted(match["module"], SIDES[match["side"]])
    if name.endswith(".alpha"):
        return Dotted(name.removesuffix(".alpha"), "alpha")
    match = OF_KIND.fullmatch(name)
    return Dotted(match["module"], kinds.SUFFIXES[match["suffix"]]) if match else None


def unet_module(module: str) -> str:
    """A module of the UNet by diffusers' names of 2022 -> by today's."""
    module = module.replace(".processor.", ".")
    return f"{module}.0" if module.endswith(".to_out") else module


def dotted_names(state: LoraState, paths: Iterable[ModulePath]) -> dict[ModulePath, str]:
    """Each module's name in its component, sorted by component and name.

    Raises:
        LoraError: No module of the family is called so.
    """
    dotted = {path: dotted_name(path, state.family) for path in paths}
    strange = sorted(kohya_name(path, state.family) for path, name in dotted.items() if not name)
    if strange:
        raise LoraError(
            f"{len(strange)} of the {len(dotted)} modules in {state.path} are not those of a UNet "
            f"or a text encoder (such as {shown(strange[0])}): "
            "only LoRAs for Kolors, SDXL and SD 1.5 are converted."
        )
    in_order = sorted(dotted, key=lambda path: f"{path.component}.{dotted[path]}.lora_A.weight")
    return {path: dotted[path] for path in in_order}
