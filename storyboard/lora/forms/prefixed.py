"""Dotted names after other prefixes than diffusers': ``lora_unet.mid_block.…lora_down.weight``.

OneTrainer's own form and the one that it shares with others (modules/util/convert/lora), and what
ComfyUI's nodes save (``diffusion_model.…``); the UNet by diffusers' blocks or by the original ones.
"""

from storyboard.lora import configuration, names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms import kohya, peft
from storyboard.lora.forms.registry import Form
from storyboard.lora.names import ModulePath
from storyboard.lora.state import LoraFile, LoraState, Place

PREFIXES = {
    "lora_unet.": "unet",
    "lora_te.": "text_encoder",
    "lora_te1.": "text_encoder",
    "lora_te2.": "text_encoder_2",
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}


def recognises(key: str) -> bool:
    dotted = peft.split(key)
    return dotted is not None and _prefix(dotted.module) is not None


def read(file: LoraFile) -> LoraState:
    places, dotted = {}, {}
    for key in file.tensors:
        whole, part = peft.split(key)
        prefix = _prefix(whole)
        component, module = PREFIXES[prefix], whole.removeprefix(prefix)
        path = place(component, module, file)
        places[key], dotted[path] = Place(path, part), module
    return assemble(file, places, configuration.alphas(file, dotted))


def place(component: str, module: str, file: LoraFile) -> ModulePath:
    """The path of a module by its dotted name, of diffusers' or the original UNet."""
    if component != "unet":
        return names.module_path(component, module)
    path = names.module_path(component, peft.unet_module(module))
    return ModulePath("unet", kohya.diffusers_name(path.name, file.layers_per_block))


def _prefix(module: str) -> str | None:
    return next((prefix for prefix in PREFIXES if module.startswith(prefix)), None)


FORM = Form("prefixed", recognises, read)
