"""diffusers of all years: ``unet.mid_block.attentions.0.proj_in.lora_A.weight``.

Today's versions write ranks and alphas into the metadata as peft's configuration
(``save_lora_weights``, diffusers/loaders/lora_base.py).
"""

import json
from collections.abc import Mapping

from storyboard.lora import configuration, names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms import peft, prefixed
from storyboard.lora.forms.registry import Form, Metadata, Tensors
from storyboard.lora.names import CLIP_MODEL, ModulePath
from storyboard.lora.state import LoraFile, LoraState, Place

OLD_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def recognises(key: str) -> bool:
    dotted = peft.split(key)
    return dotted is not None and dotted.module.partition(".")[0] in names.components()


def read(file: LoraFile) -> LoraState:
    """Alphas are those of the tensors, else of peft's configuration, else the ranks."""
    places, dotted = {}, {}
    for key in file.tensors:
        whole, part = peft.split(key)
        component, _, module = whole.partition(".")
        module = _today(component, module)
        path = prefixed.place(component, module, file)
        places[key], dotted[path] = Place(path, part), module

    return assemble(file, places, configuration.alphas(file, dotted))


def write(state: LoraState) -> tuple[Tensors, Metadata]:
    """Alphas go into the metadata, where diffusers looks for them."""
    dotted = peft.dotted_names(state, state.modules)
    tensors, settings = {}, {}
    for path, name in dotted.items():
        module = state.modules[path]
        tensors[f"{path.component}.{name}.lora_A.weight"] = module.down
        tensors[f"{path.component}.{name}.lora_B.weight"] = module.up
    for component in dict.fromkeys(path.component for path in dotted):
        own = _configuration(state.only({component}), dotted)
        settings |= {f"{component}.{key}": value for key, value in own.items()}
    return tensors, {configuration.METADATA: json.dumps(settings, indent=2, sort_keys=True)}


def _configuration(state: LoraState, dotted: Mapping[ModulePath, str]) -> dict[str, object]:
    """peft's configuration of one component: commonest values first, exceptions as patterns.

    Names of a text encoder are matched by their ends, as only some versions of transformers begin
    them with ``text_model.``.
    """
    (component,) = state.components
    anchor = "^" if component == "unet" else ""
    modules = {
        dotted[path].removeprefix(f"{CLIP_MODEL}."): state.modules[path]
        for path in dotted
        if path in state.modules
    }
    rank = max(module.rank for module in modules.values())
    alpha = float(next(iter(modules.values())).alpha)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(modules),
        "rank_pattern": {
            f"{anchor}{name}": module.rank
            for name, module in modules.items()
            if module.rank != rank
        },
        "alpha_pattern": {
            f"{anchor}{name}": float(module.alpha)
            for name, module in modules.items()
            if float(module.alpha) != alpha
        },
    }


def _today(component: str, module: str) -> str:
    """A module by its name of 2022 or 2023 -> by today's."""
    if component == "unet":
        return peft.unet_module(module)
    head, _, last = module.rpartition(".")
    return f"{head}.{OLD_ATTENTION.get(last, last)}" if head else last


FORM = Form("diffusers", recognises, read, write)
