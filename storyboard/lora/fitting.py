"""Whether a LoRA is one of a base: by what it says it was trained on, by names and shapes."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from storyboard.errors import LoraError
from storyboard.lora import origin, reading, values
from storyboard.lora.names import ModulePath, kohya_name, module_path, shown
from storyboard.lora.origin import Origin
from storyboard.lora.state import LoraModule, LoraState
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.models.bases import Base


def check(base: Base, lora: Path) -> None:
    """Compare a kohya-form file with all of ``base``, whose configs alone are read.

    Raises:
        LoraError: It names another base, a module has no place or another shape there, or the
            values cannot be drawn with.
    """
    tensors, metadata = reading.header(lora)
    check_trained_on(base, lora, metadata)
    state = reading.read_kohya(lora, base.family)
    values.check(state)
    fitted(base, state, skeletons(base, state.components), origin.of_tensors(tensors))


def skeletons(base: Base, components: Collection[str]) -> dict[str, nn.Module]:
    """Those of ``components`` that ``base`` has, without weights."""
    own = sorted(set(components) & set(base.components))
    return {component: models.skeleton(base, component) for component in own}


def check_trained_on(base: Base, lora: Path, metadata: Mapping[str, str]) -> None:
    """Raise LoraError where the metadata of a LoRA name another base, or another model."""
    trained_on = metadata.get("ss_base_model_version")
    known = {other.kohya_name: other.name for other in map(bases.get, bases.names())}
    if trained_on == base.kohya_name:
        return
    if trained_on in known:
        raise LoraError(
            f"{lora} was trained on the base {known[trained_on]!r}, not on {base.name!r}: "
            f"set base={known[trained_on]!r} or train again."
        )
    other = origin.of_metadata(metadata)
    if other is not None and other.family != base.family.name:
        raise LoraError(
            f"{lora} was trained on {other.title}, not on {base.name!r}: {_advice(other)}."
        )


def same_unet(base: Base) -> list[str]:
    """Bases of another family whose UNets have the names and widths of that of ``base``."""
    widths = base.unet.get("block_out_channels")
    others = [bases.get(name) for name in bases.names()]
    return [
        other.name
        for other in others
        if other.family.name != base.family.name and other.unet.get("block_out_channels") == widths
    ]


def fitted(
    base: Base, state: LoraState, parts: Mapping[str, nn.Module], made_for: Origin | None = None
) -> LoraState:
    """``state`` with every module in the shape of its place in ``base``.

    A convolution of 1 x 1 and a linear layer are one thing, and so is a kernel that is written
    flat: makers write either.

    Args:
        parts: Components of ``base``, with or without weights.
        made_for: What its tensors tell, for the message.

    Raises:
        LoraError: A module has no place, or not the shape of it.
    """
    layers = {
        module_path(component, name): layer
        for component, part in parts.items()
        for name, layer in layers_of(part).items()
    }
    names = {kohya_name(path, state.family): path for path in state.modules}
    strangers = sorted(name for name, path in names.items() if path not in layers)
    if strangers:
        told = made_for is not None and made_for.family != base.family.name
        reason = (
            f"it is for {made_for.title}, {_advice(made_for)}"
            if told
            else ("set base to the one it was trained on, or bring it in with import_lora")
        )
        raise LoraError(
            f"{len(strangers)} of the {len(names)} modules in {state.path} have no place in the "
            f"base {base.name!r} (such as {shown(strangers[0])}): {reason}."
        )

    modules = dict(state.modules)
    for name, path in sorted(names.items()):
        shape = _shape(layers[path])
        module = _reshaped(state.modules[path], shape)
        if module is None:
            raise _other_shape(base, state, name, path, shape, made_for)
        modules[path] = module
    return replace(state, modules=modules)


def layers_of(part: nn.Module) -> dict[str, nn.Module]:
    """What a LoRA can change in ``part``, by name; a layer that has one already by its own name."""
    return {
        name.removesuffix(".base_layer"): layer
        for name, layer in part.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".lora_" not in name
    }


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """That of the layer's weight; a quantised one's is packed."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return tuple(layer.weight.shape)


def _reshaped(module: LoraModule, shape: tuple[int, ...]) -> LoraModule | None:
    """``module`` for a weight of ``shape``; None where it is not one for that."""
    outputs, *inputs = shape
    down, up = module.down, module.up
    flat = (tuple(up.flatten(1).shape), tuple(down.flatten(1).shape))
    if flat != ((outputs, module.rank), (module.rank, math.prod(inputs))):
        return None

    written = [size for size in down.shape[1:] if size != 1]
    if down.ndim != 2 and written != [size for size in inputs if size != 1]:
        return None  # the same count of numbers in another order
    return replace(
        module,
        down=down.reshape(module.rank, *inputs),
        up=up.reshape(outputs, module.rank, *[1] * (len(inputs) - 1)),
    )


def _other_shape(
    base: Base,
    state: LoraState,
    name: str,
    path: ModulePath,
    shape: tuple[int, ...],
    made_for: Origin | None,
) -> LoraError:
    """What to raise where a module has another shape than its place."""
    module = state.modules[path]
    down, up = list(module.down.shape), list(module.up.shape)
    what = f"{shown(name)} is {down} and {up} where that base has {list(shape)}"
    if _reshaped(replace(module, down=module.up, up=module.down), shape):
        return LoraError(
            f"{state.path} has up and down in each other's place for the base {base.name!r} "
            f"({what}): get it again."
        )
    if made_for is not None and made_for.family != base.family.name:
        reason = f"it is for {made_for.title}, {_advice(made_for)}"
    else:
        reason = "it was trained on another base, set base to that one"
    return LoraError(f"{state.path} does not fit the base {base.name!r} ({what}): {reason}.")


def _advice(other: Origin) -> str:
    if other.family is None:
        return "give one for Kolors, SDXL or SD 1.5"
    return f"set base={other.family!r} or train again"
