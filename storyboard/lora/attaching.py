"""A LoRA file onto the modules of its base, UNet and text encoders: whole, or an error."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.errors import LoraError
from storyboard.lora import file as lora_file
from storyboard.lora import reading
from storyboard.lora.names import ModulePath, kohya_name, module_path
from storyboard.lora.state import LoraState
from storyboard.models import bases
from storyboard.models import loading as models
from storyboard.models.bases import Base

ADAPTER = "story"
TOLERANCE = 1e-6  # of a scale, relative


@dataclass(frozen=True)
class TextAdapter:
    """What a LoRA changes in the text encoders of a base, as ``conditioning.encode`` takes it."""

    base: Base
    path: Path

    @property
    def fingerprint(self) -> str:
        """What the embeddings depend on besides the base."""
        return artifacts.fingerprint(
            lora=artifacts.digest_of_file(self.path), versions=artifacts.versions("peft")
        )

    def attach(self, pipe) -> None:
        """Attach it to the text encoders of ``pipe``. Errors as ``attach``."""
        attach(pipe, self.base, self.path)


def text_adapter(base: Base, lora: Path | None) -> TextAdapter | None:
    """The part of a LoRA file for the text encoders of ``base``; None where it has none."""
    return TextAdapter(base, lora) if lora and lora_file.has_text_encoder(lora) else None


def check(base: Base, lora: Path) -> None:
    """Compare a kohya-form file with all of ``base``, by names and shapes in headers and configs.

    Raises:
        LoraError: It names another base, or a module has no place or another shape there.
    """
    state = reading.read_kohya(lora, base.family, values=False)
    check_trained_on(base, lora, lora_file.metadata(lora))
    check_fit(base, state, skeletons(base, state.components))


def skeletons(base: Base, components: Collection[str]) -> dict[str, nn.Module]:
    """Those of ``components`` that ``base`` has, without weights."""
    own = sorted(set(components) & set(base.components))
    return {component: models.skeleton(base, component) for component in own}


def check_trained_on(base: Base, lora: Path, metadata: Mapping[str, str]) -> None:
    """Raise LoraError where the metadata of a LoRA name another base."""
    trained_on = metadata.get("ss_base_model_version")
    known = {other.kohya_name: other.name for other in map(bases.get, bases.names())}
    if trained_on in known and trained_on != base.kohya_name:
        raise LoraError(
            f"{lora} was trained on the base {known[trained_on]!r}, not on {base.name!r}: "
            f"set base={known[trained_on]!r} or train again."
        )


def check_fit(base: Base, state: LoraState, parts: Mapping[str, nn.Module]) -> None:
    """Raise LoraError unless every module of a LoRA has a place of its shape in ``base``.

    Args:
        parts: Components of ``base``, with or without weights.
    """
    layers = {
        module_path(component, name): layer
        for component, part in parts.items()
        for name, layer in _layers(part).items()
    }
    names = {kohya_name(path, state.family): path for path in state.modules}
    strangers = sorted(name for name, path in names.items() if path not in layers)
    if strangers:
        raise LoraError(
            f"{len(strangers)} of the {len(names)} modules in {state.path} have no place in the "
            f"base {base.name!r} (such as {strangers[0]}): "
            "set base to the one it was trained on, or bring it in with import_lora."
        )

    for name, path in sorted(names.items()):
        outputs, *inputs = shape = _shape(layers[path])
        module = state.modules[path]
        down, up = tuple(module.down.shape), tuple(module.up.shape)
        kernel = [1] * (len(shape) - 2)
        if (down, up) != ((down[0], *inputs), (outputs, down[0], *kernel)):
            raise LoraError(
                f"{state.path} does not fit the base {base.name!r} ({name} is {list(down)} and "
                f"{list(up)} where that base has {list(shape)}): "
                "it was trained on another base, set base to that one."
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
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return tuple(layer.weight.shape)


def attach(pipe, base: Base, lora: Path) -> int:
    """Attach what a kohya-form LoRA has for the UNet and text encoders that ``pipe`` holds.

    Returns:
        The number of modules that it changes there.

    Raises:
        LoraError: It names another base, or any of those modules found no place, or not the file's
            values.
    """
    state = reading.read_kohya(lora, base.family)
    check_trained_on(base, lora, lora_file.metadata(lora))
    parts = {
        component: getattr(pipe, component)
        for component in sorted(base.components)
        if component != "vae" and getattr(pipe, component, None) is not None
    }
    # what belongs to a component of the base that is loaded elsewhere is attached there
    elsewhere = set(base.components) - parts.keys()
    state = state.only(state.components - elsewhere)
    check_fit(base, state, parts)
    state.refuse_broken()

    for component in sorted(state.components):
        part, own = parts[component], state.only({component})
        try:
            with quiet():
                _inject(part, component, own)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise LoraError(
                f"{lora} does not fit the base {base.name!r} ({str(error).splitlines()[0]}): "
                "it was trained on another base."
            ) from error
        _check_attached(part, component, own)
    return len(state.modules)


def _inject(part: nn.Module, component: str, state: LoraState) -> None:
    """Put a LoRA into ``part`` by peft, as diffusers' loader does (loaders/peft.py), in fp32.

    Not by that loader: where alphas differ from module to module, diffusers 0.42 takes the
    commonest one for attention and text encoders.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    layers = _layers(part)
    names = {module_path(component, name): name for name in layers}
    tensors, ranks, alphas = {}, {}, {}
    for path, module in state.modules.items():
        name = names[path]
        device = layers[name].weight.device
        tensors[f"{name}.lora_A.weight"] = module.down.float().to(device)
        tensors[f"{name}.lora_B.weight"] = module.up.float().to(device)

        pattern = f"^{re.escape(name)}"
        ranks[pattern], alphas[pattern] = module.rank, float(module.alpha)

    targets = sorted(names[path] for path in state.modules)
    config = LoraConfig(target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas)
    inject_adapter_in_model(config, part, ADAPTER, state_dict=tensors, low_cpu_mem_usage=True)
    set_peft_model_state_dict(part, tensors, ADAPTER, low_cpu_mem_usage=True)


def _check_attached(part: nn.Module, component: str, state: LoraState) -> None:
    """Raise LoraError unless the adapter's modules are the file's, with its scales and values."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {
        module_path(component, name): layer
        for name, layer in part.named_modules()
        if isinstance(layer, BaseTunerLayer) and ADAPTER in layer.lora_A
    }
    wrong = sorted(
        kohya_name(path, state.family)
        for path in state.modules
        if not _attached(path, layers, state)
    )
    if wrong:
        raise LoraError(
            f"{wrong[0]} of {state.path} did not attach as it stands in the file: "
            "bring the file in with import_lora."
        )
    if len(layers) != len(state.modules):
        raise LoraError(
            f"{len(layers)} modules were changed where {state.path} has {len(state.modules)}: "
            "load the base again."
        )


def _attached(path: ModulePath, layers: Mapping[ModulePath, nn.Module], state: LoraState) -> bool:
    """Whether the layer at ``path`` has the scale and the values of its module in ``state``."""
    if path not in layers:
        return False
    layer, module = layers[path], state.modules[path]
    scale = layer.scaling[ADAPTER]
    return abs(scale - module.scale) <= TOLERANCE * abs(module.scale) and _same(
        layer.lora_A[ADAPTER].weight, module.down
    )


def _same(weight: torch.Tensor, tensor: torch.Tensor) -> bool:
    return torch.equal(weight.detach().cpu(), tensor.to(weight.dtype))
