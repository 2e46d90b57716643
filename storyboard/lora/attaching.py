"""A LoRA file onto the modules of its base, UNet and text encoders: whole, or an error."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.errors import LoraError
from storyboard.lora import file as lora_file
from storyboard.lora import fitting, origin, reading, values
from storyboard.lora.names import ModulePath, kohya_name, module_path
from storyboard.lora.state import LoraState
from storyboard.models.bases import Base

ADAPTER = "story"
TOLERANCE = 1e-6  # of a scale, relative


@dataclass(frozen=True)
class TextAdapter:
    """What a LoRA changes in the text encoders of a base, as ``conditioning.encode`` takes it."""

    base: Base
    path: Path
    strength: float = 1.0

    @property
    def fingerprint(self) -> str:
        """What the embeddings depend on besides the base."""
        inputs = {} if self.strength == 1 else {"strength": self.strength}
        return artifacts.fingerprint(
            lora=artifacts.digest_of_file(self.path), versions=artifacts.versions("peft"), **inputs
        )

    def attach(self, pipe) -> None:
        """Attach it to the text encoders of ``pipe``. Errors as ``attach``."""
        attach(pipe, self.base, self.path, self.strength)


def text_adapter(base: Base, lora: Path | None, strength: float = 1.0) -> TextAdapter | None:
    """The part of a LoRA file for the text encoders of ``base``; None where it has none."""
    return TextAdapter(base, lora, strength) if lora and lora_file.has_text_encoder(lora) else None


def attach(pipe, base: Base, lora: Path, strength: float = 1.0) -> int:
    """Attach what a kohya-form LoRA has for the UNet and text encoders that ``pipe`` holds.

    Args:
        strength: Its change is multiplied by.

    Returns:
        The number of modules that it changes there.

    Raises:
        LoraError: It names another base, or any of those modules found no place, or not the file's
            values, or those are not finite.
    """
    tensors, metadata = reading.header(lora)
    fitting.check_trained_on(base, lora, metadata)
    state = reading.read_kohya(lora, base.family)
    parts = {
        component: getattr(pipe, component)
        for component in sorted(base.components)
        if component != "vae" and getattr(pipe, component, None) is not None
    }
    # what belongs to a component of the base that is loaded elsewhere is attached there
    elsewhere = set(base.components) - parts.keys()
    values.check(state)
    state = state.only(state.components - elsewhere)
    state = fitting.fitted(base, state, parts, origin.of_tensors(tensors))
    if strength != 1:
        state = state.scaled(strength)

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

    layers = fitting.layers_of(part)
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
