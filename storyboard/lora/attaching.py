"""A LoRA file onto the modules of its base, in the UNet and the text encoders: whole, or an error."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.errors import LoraError
from storyboard.lora import file as lora_file
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.models.bases import Base

ADAPTER = "story"


@dataclass(frozen=True)
class TextAdapter:
    """What a LoRA file changes in the text encoders of a base, as ``conditioning.encode`` takes it."""

    base: Base
    path: Path

    @property
    def fingerprint(self) -> str:
        """What the embeddings depend on beside the base."""
        return artifacts.fingerprint(
            lora=artifacts.digest_of_file(self.path), versions=artifacts.versions("peft")
        )

    def attach(self, pipe) -> None:
        """Attach it to the text encoders of ``pipe``. Errors as ``attach``."""
        attach(pipe, self.base, self.path)


def text_adapter(base: Base, lora: Path | None) -> TextAdapter | None:
    """The part of a LoRA file for the text encoders of ``base``; None where it has none."""
    return TextAdapter(base, lora) if lora and lora_file.trains_text(lora) else None


def check(base: Base, lora: Path) -> None:
    """Compare names and shapes of a kohya-form file with all of ``base``, by headers and configs alone.

    Raises:
        LoraError: It names another base, or a module has no place or another shape there.
    """
    shapes = lora_file.shapes(lora)
    check_trained_on(base, lora, lora_file.metadata(lora))
    check_fit(base, lora, shapes, skeletons(base, shapes))


def skeletons(base: Base, names: Iterable[str]) -> dict[str, nn.Module]:
    """Those components of ``base`` that kohya-form ``names`` speak of, without weights."""
    components = {lora_file.component_of(name) for name in names} & set(base.components)
    return {component: models.skeleton(base, component) for component in sorted(components)}


def check_trained_on(base: Base, lora: Path, facts: Mapping[str, str]) -> None:
    """Raise LoraError where the metadata ``facts`` name another base."""
    trained_on = facts.get("ss_base_model_version")
    known = {other.kohya_name: other.name for other in map(bases.get, bases.names())}
    if trained_on in known and trained_on != base.kohya_name:
        raise LoraError(
            f"{lora} was trained on the base {known[trained_on]!r}, not on {base.name!r}: "
            f"set base={known[trained_on]!r} or train again."
        )


def check_fit(
    base: Base, lora: Path, shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, nn.Module]
) -> None:
    """Raise LoraError unless every module of a kohya-form file has a place of its shape in ``parts``, by component."""
    layers = {
        lora_file.module_key(component, name): layer
        for component, part in parts.items()
        for name, layer in _layers(part).items()
    }
    names = sorted(
        key.removesuffix(".lora_down.weight") for key in shapes if key.endswith(".lora_down.weight")
    )
    if strangers := [name for name in names if lora_file.module_key_of(name) not in layers]:
        raise LoraError(
            f"{len(strangers)} of the {len(names)} modules in {lora} have no place in the base {base.name!r} "
            f"(such as {strangers[0]}): set base to the one it was trained on, or bring it in with import_lora."
        )
    for name in names:
        outputs, *inputs = shape = _shape(layers[lora_file.module_key_of(name)])
        down, up = shapes[f"{name}.lora_down.weight"], shapes[f"{name}.lora_up.weight"]
        expected = (down[0], *inputs), (outputs, down[0], *[1] * (len(shape) - 2))
        if (down, up) != expected:
            raise LoraError(
                f"{lora} does not fit the base {base.name!r} ({name} is {list(down)} and {list(up)} "
                f"where that base has {list(shape)}): it was trained on another base, set base to that one."
            )


def _layers(part: nn.Module) -> dict[str, nn.Module]:
    """What a LoRA can change in ``part``, by name; a layer that has one already by its own name."""
    return {
        name.removesuffix(".base_layer"): layer
        for name, layer in part.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".lora_" not in name
    }


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """That of the layer's weight; a quantised one's is packed."""
    return (
        (layer.out_features, layer.in_features)
        if isinstance(layer, nn.Linear)
        else tuple(layer.weight.shape)
    )


def attach(pipe, base: Base, lora: Path) -> int:
    """Attach what a kohya-form LoRA has for the UNet and text encoders that ``pipe`` holds.

    Returns:
        The number of modules that it changes there.

    Raises:
        LoraError: It names another base, or any of those modules found no place, or not the file's values.
    """
    shapes = lora_file.shapes(lora)
    check_trained_on(base, lora, lora_file.metadata(lora))
    held = {
        component for component in base.components if getattr(pipe, component, None) is not None
    }
    # what belongs to a component of the base that is loaded elsewhere is attached there
    here = {
        key: shape
        for key, shape in shapes.items()
        if lora_file.component_of(key) in held or lora_file.component_of(key) not in base.components
    }
    check_fit(
        base, lora, here, {component: getattr(pipe, component) for component in held - {"vae"}}
    )
    tensors = {key: tensor for key, tensor in load_file(lora).items() if key in here}
    if broken := sorted(
        key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()
    ):
        raise LoraError(
            f"{lora} holds values that are not finite (such as {broken[0]}): get it again, "
            "or give an earlier checkpoint of it."
        )

    attached = 0
    for component in sorted(held - {"vae"}):
        part = {
            key: tensor
            for key, tensor in tensors.items()
            if lora_file.component_of(key) == component
        }
        if not part:
            continue
        try:
            with quiet():
                _inject(getattr(pipe, component), component, part)
        except (RuntimeError, ValueError) as error:
            raise LoraError(
                f"{lora} does not fit the base {base.name!r} ({str(error).splitlines()[0]}): "
                "it was trained on another base."
            ) from error
        attached += _count(getattr(pipe, component), component, part, lora)
    return attached


def _inject(part: nn.Module, component: str, tensors: dict[str, torch.Tensor]) -> None:
    """Put ``tensors`` into ``part`` by peft, as diffusers' loader does (diffusers/loaders/peft.py), in fp32.

    Not by that loader: where alphas differ from module to module, diffusers 0.42 takes the commonest one for attention
    and text encoders.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    layers = _layers(part)
    names = {lora_file.module_key(component, name): name for name in layers}
    state, ranks, alphas = {}, {}, {}
    for key, tensor in tensors.items():
        module, _, kind = key.partition(".")
        name = names[lora_file.module_key_of(module)]
        pattern = f"^{re.escape(name)}"
        tensor = tensor.float().to(layers[name].weight.device)
        if kind == "alpha":
            alphas[pattern] = float(tensor)
        elif kind == "lora_up.weight":
            state[f"{name}.lora_B.weight"] = tensor
        else:
            state[f"{name}.lora_A.weight"], ranks[pattern] = tensor, len(tensor)
    targets = sorted({key.rpartition(".lora_")[0] for key in state})
    config = LoraConfig(target_modules=targets, rank_pattern=ranks, alpha_pattern=ranks | alphas)
    inject_adapter_in_model(config, part, ADAPTER, state_dict=state, low_cpu_mem_usage=True)
    set_peft_model_state_dict(part, state, ADAPTER, low_cpu_mem_usage=True)


def _count(part: nn.Module, component: str, tensors: dict[str, torch.Tensor], lora: Path) -> int:
    """Modules of ``part`` with the adapter; LoraError unless they are the file's, each with its scale and values."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {
        lora_file.module_key(component, name): layer
        for name, layer in part.named_modules()
        if isinstance(layer, BaseTunerLayer) and ADAPTER in layer.lora_A
    }
    names = {key.partition(".")[0] for key in tensors}
    for name in sorted(names):
        layer, down = layers.get(lora_file.module_key_of(name)), tensors[f"{name}.lora_down.weight"]
        scale = float(tensors.get(f"{name}.alpha", len(down))) / len(down)
        if (
            layer is None
            or abs(layer.scaling[ADAPTER] - scale) > 1e-6 * abs(scale)
            or not _same(layer.lora_A[ADAPTER].weight, down)
        ):
            raise LoraError(
                f"{name} of {lora} did not attach as it stands in the file: bring the file in with import_lora."
            )
    if len(layers) != len(names):
        raise LoraError(
            f"{len(layers)} modules were changed where {lora} has {len(names)}: load the base again."
        )
    return len(names)


def _same(weight: torch.Tensor, tensor: torch.Tensor) -> bool:
    return torch.equal(weight.detach().cpu(), tensor.to(weight.dtype))
