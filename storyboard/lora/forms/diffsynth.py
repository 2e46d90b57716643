"""DiffSynth-Studio's form, of the UNet: ``mid_block.attentions.0.proj_in.lora_A.default.weight``.

Its loader scales by ``module.alpha / rank`` (diffsynth/utils/lora/general.py).
"""

import torch

from storyboard.errors import LoraError
from storyboard.lora import configuration, names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms import peft
from storyboard.lora.forms.registry import Form, Metadata, Tensors
from storyboard.lora.state import LoraFile, LoraState, Place


def recognises(key: str) -> bool:
    """Every dotted name; other forms with such names are asked first."""
    return peft.split(key) is not None


def read(file: LoraFile) -> LoraState:
    places, dotted = {}, {}
    for key in file.tensors:
        module, part = peft.split(key)
        module = peft.unet_module(module)
        path = names.module_path("unet", module)
        places[key], dotted[path] = Place(path, part), module

    return assemble(file, places, configuration.alphas(file, dotted))


def write(state: LoraState) -> tuple[Tensors, Metadata]:
    """Alphas are left out where every module's is its rank.

    Raises:
        LoraError: It changes a text encoder, for which the form has no names.
    """
    dotted = peft.dotted_names(state, state.modules)
    text = [path for path in dotted if path.component != "unet"]
    if text:
        raise LoraError(
            f"{state.path} changes {len(text)} modules of a text encoder, for which "
            "DiffSynth-Studio's form has no names: convert it to 'diffusers' or 'kohya'."
        )

    tensors = {}
    for path, name in dotted.items():
        tensors[f"{name}.lora_A.default.weight"] = state.modules[path].down
        tensors[f"{name}.lora_B.default.weight"] = state.modules[path].up

    modules = state.modules.values()
    one_rank = len({module.rank for module in modules}) == 1
    if not one_rank or any(float(module.alpha) != module.rank for module in modules):
        for path, name in dotted.items():
            tensors[f"{name}.alpha"] = torch.tensor(float(state.modules[path].alpha))
    return tensors, {}


FORM = Form("diffsynth", recognises, read, write, fallback=True)
