"""Whether the numbers of a LoRA can be drawn with."""

import math

import torch

from storyboard.errors import LoraError
from storyboard.lora.names import kohya_name, shown
from storyboard.lora.state import LoraModule, LoraState

LARGEST = torch.finfo(torch.float16).max  # the precision that bases are kept in


def check(state: LoraState) -> None:
    """Raise LoraError where a LoRA changes nothing, or by numbers that are not finite."""
    broken = sorted(
        name
        for name, tensor in state.named()
        if not name.endswith(".alpha") and not torch.isfinite(tensor.float()).all()
    )
    if broken:
        raise LoraError(
            f"{state.path} holds values that are not finite (such as {shown(broken[0])}): "
            "get it again, or give an earlier checkpoint of it."
        )
    _check_alphas(state)

    large = sorted(
        kohya_name(path, state.family)
        for path, module in state.modules.items()
        if not _is_drawable(module)
    )
    if large:
        raise LoraError(
            f"{state.path} would change weights by more than {LARGEST:,.0f} (such as "
            f"{shown(large[0])}), the largest number in half precision: get it again."
        )
    if not any(module.up.any() and module.down.any() for module in state.modules.values()):
        raise LoraError(
            f"{state.path} changes nothing, all its up or down matrices are zero: "
            "get it again, or give a later checkpoint of it."
        )


def _check_alphas(state: LoraState) -> None:
    alphas = {
        kohya_name(path, state.family): float(module.alpha)
        for path, module in state.modules.items()
    }
    odd = {name: alpha for name, alpha in alphas.items() if not math.isfinite(alpha) or not alpha}
    if odd:
        name = min(odd)
        raise LoraError(
            f"{state.path} gives {len(odd)} of its {len(alphas)} modules no alpha to draw with "
            f"({odd[name]:g} for {shown(name)}): give import_lora the alpha that it was trained "
            "with, or the folder of a peft file, whose adapter_config.json names it."
        )


def _is_drawable(module: LoraModule) -> bool:
    """Whether no number of the change can be above ``LARGEST``.

    Each is at most the product of the longest row of ``up`` and the longest column of ``down``.
    """
    up = module.up.float().flatten(1).norm(dim=1).max()
    down = module.down.float().flatten(1).norm(dim=0).max()
    return float(up) * float(down) * abs(module.scale) <= LARGEST
