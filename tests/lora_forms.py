"""LoRAs as other trainers write them."""

import json

import torch
from safetensors.torch import load_file, save_file

from storyboard.lora import file as lora
from storyboard.lora.forms.course import ATTENTION_BLOCKS
from storyboard.lora.names import dotted_name, kohya_name, module_path, path_of
from storyboard.models import families
from storyboard.models import loading as models
from tests import tiny

SDXL = families.by_name("sdxl")
OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
FIRST_BRANCHES = (  # of a transformer block in diffusers 0.11
    *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    "ff.net.0.proj",
    *("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
)


def peft_attention(base):
    """A LoRA of rank 4 for the attention of a base's UNet, under peft's names."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, layer in models.skeleton(base, "unet").named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            down = torch.randn(4, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, 4, generator=generator)
            state[f"{name}.lora_A.default.weight"] = down
            state[f"{name}.lora_B.default.weight"] = up
    return state


def kohya_whole(base, path):
    """The tensors of a kohya-form file at ``path`` for UNet and text encoders, alpha the rank."""
    tiny.whole_lora(base, path, alphas=(4.0,))
    return load_file(path)


def course(state):
    """peft's names -> those of DiffSynth-Studio 1.1.9, as the 2024 course saved them."""
    numbers = {block: number for number, block in ATTENTION_BLOCKS.items()}
    renamed = {}
    for key, tensor in state.items():
        block = next(block for block in numbers if key.startswith(block))
        name = f"blocks.{numbers[block]}{key.removeprefix(block)}"
        renamed[name.replace("to_out.0", "to_out")] = tensor
    return renamed


def original_blocks(state):
    """peft's names -> kohya's form with SDXL's own block names, as sd-scripts writes them."""
    renamed = {}
    for key, tensor in lora.to_kohya(state, 2.0).items():
        side, *parts = key.removeprefix("lora_unet_").split("_")
        if side == "mid":
            name = ["middle_block", "1", *parts[3:]]
        else:
            block, layer, rest = int(parts[1]), int(parts[3]), parts[4:]
            number = block * 3 + layer + (1 if side == "down" else 0)
            blocks = "input_blocks" if side == "down" else "output_blocks"
            name = [blocks, str(number), "1", *rest]
        renamed["_".join(["lora_unet", *name])] = tensor
    return renamed


def comfyui(state):
    """peft's names -> what ComfyUI's nodes save: SDXL's own block names, dotted."""
    tensors = {}
    for key, tensor in state.items():
        module, side = key.replace(".default", "").split(".lora_")
        way, *parts = module.split(".")
        if way == "mid_block":
            name = ["middle_block", "1", *parts[2:]]
        else:
            block, layer = int(parts[0]), int(parts[2])
            number = block * 3 + layer + (1 if way == "down_blocks" else 0)
            blocks = "input_blocks" if way == "down_blocks" else "output_blocks"
            name = [blocks, str(number), "1", *parts[3:]]
        half = "down" if side.startswith("A") else "up"
        name = ".".join(["diffusion_model", *name])
        tensors |= {f"{name}.lora_{half}.weight": tensor, f"{name}.alpha": torch.tensor(2.0)}
    return tensors


def prefixed(tensors, **prefixes):
    """kohya's form -> dotted names after other prefixes, by component."""
    renamed = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        path = path_of(name)
        module = dotted_name(path, SDXL)
        renamed[f"{prefixes[path.component]}.{module}.{part}"] = tensor
    return renamed


def dotted(tensors, rename):
    """kohya's form without alpha -> other keys, by ``rename(component, module, up or down)``."""
    renamed = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part != "alpha":
            path = path_of(name)
            side = part.removeprefix("lora_").removesuffix(".weight")
            renamed[rename(path.component, dotted_name(path, SDXL), side)] = tensor
    return renamed


def of_2023(component, module, side):
    """As diffusers 0.17 to 0.21 saved: attention by its processors, what else by its layers."""
    head, _, last = module.rpartition(".")
    if component == "unet" and last == "to_q":
        return f"unet.{head}.processor.to_q_lora.{side}.weight"
    if last in OLD_ATTENTION:
        return f"{component}.{head}.{OLD_ATTENTION[last]}_lora.{side}.weight"
    layer = "lora" if component == "unet" else "lora_linear_layer"
    return f"{component}.{module}.{layer}.{side}.weight"


def of_diffusers(component, module, side):
    return f"{component}.{module}.lora_{'A' if side == 'down' else 'B'}.weight"


def of_peft(component, module, side):
    return of_diffusers(component, module.removeprefix("text_model."), side)


def first_trainer(base, path, targets=("CrossAttention", "Attention", "GEGLU"), words=()):
    """Write a file as cloneofsimo/lora's save_safeloras_with_embeds does.

    By the walk of lora_diffusion/lora.py: a block of diffusers 0.11 had attention, the
    feed-forward, then cross-attention; one of transformers 4.25 key, value, query, output.

    Returns:
        up and down by kohya's name of each layer.
    """
    tensors, expected = {}, {}
    facts = {"unet": json.dumps(targets), "text_encoder": '["CLIPAttention"]'}
    numbers = {"unet": 0, "text_encoder": 0}
    generator = torch.Generator().manual_seed(2)
    for component, name, layer in _walk(base):
        up = torch.randn(layer.out_features, 1, generator=generator)
        down = torch.randn(1, layer.in_features, generator=generator)
        key = f"{component}:{numbers[component]}"
        tensors |= {f"{key}:up": up, f"{key}:down": down}
        facts[f"{key}:rank"] = "1"
        expected[kohya_name(module_path(component, name), base.family)] = up, down
        numbers[component] += 1

    tensors |= {word: torch.randn(32, generator=generator) for word in words}
    save_file(tensors, path, facts | dict.fromkeys(words, "<embed>"))
    return expected


def _walk(base):
    """Component, name and layer of what cloneofsimo/lora changed, in its order."""
    unet, text = models.skeleton(base, "unet"), models.skeleton(base, "text_encoder")
    for part in ("down_blocks", "up_blocks", "mid_block"):
        for name, module in getattr(unet, part).named_modules():
            if type(module).__name__ == "BasicTransformerBlock":
                for layer in FIRST_BRANCHES:
                    yield "unet", f"{part}.{name}.{layer}", module.get_submodule(layer)
    for name, module in text.named_modules():
        if type(module).__name__ == "CLIPAttention":
            for layer in ("k_proj", "v_proj", "q_proj", "out_proj"):
                yield "text_encoder", f"{name}.{layer}", getattr(module, layer)
