"""kohya-ss/sd-scripts: ``lora_unet_mid_block_attentions_0_proj_in.lora_down.weight``.

It writes SDXL's UNet by its original blocks (``input_blocks_4_1``), which diffusers and we call
``down_blocks_1_attentions_0`` (networks/lora.py, networks/sdxl_lora.py).
"""

import re

from storyboard.lora import kinds, names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms.registry import Form, Metadata, Tensors
from storyboard.lora.names import ModulePath
from storyboard.lora.state import PARTS, LoraFile, LoraState, Place

ORIGINAL_BLOCK = re.compile(
    r"(input_blocks|middle_block|output_blocks)_([0-9]{1,4})_(?:([0-9])_)?(.+)"
)
OUTSIDE_OF_BLOCKS = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}


SUFFIXES = PARTS | kinds.SUFFIXES


def recognises(key: str) -> bool:
    module, _, part = key.partition(".")
    return part in SUFFIXES and names.component_of(module) is not None


def read(file: LoraFile) -> LoraState:
    return assemble(file, {key: _place(key, file) for key in file.tensors})


def write(state: LoraState) -> tuple[Tensors, Metadata]:
    """Every module with its alpha."""
    return dict(state.named()), {}


def _place(key: str, file: LoraFile) -> Place:
    module, _, part = key.partition(".")
    path = names.path_of(module, file.family)
    if path.component == "unet":
        path = ModulePath("unet", diffusers_name(path.name, file.layers_per_block))
    return Place(path, SUFFIXES[part])


def diffusers_name(module: str, layers_per_block: int) -> str:
    """A module of SDXL's UNet by its original name -> as diffusers calls it; any other as it is.

    A block of diffusers is ``layers_per_block`` residual blocks and, on the way down, a
    downsampler; the original has a block for each of them.
    """
    if module in OUTSIDE_OF_BLOCKS:
        return OUTSIDE_OF_BLOCKS[module]
    match = ORIGINAL_BLOCK.fullmatch(module)
    if not match:
        return module

    side, number, part, rest = match[1], int(match[2]), match[3], match[4]
    if side == "middle_block":
        parent = "mid_block_attentions_0" if number == 1 else f"mid_block_resnets_{number // 2}"
        rest = f"{part}_{rest}" if part else rest
    else:
        way = "down" if side == "input_blocks" else "up"
        index = number - 1 if way == "down" else number
        block, layer = divmod(index, layers_per_block + 1)
        if rest in ("op", "conv"):
            parent, rest = f"{way}_blocks_{block}_{way}samplers_0", "conv"
        else:
            parent = f"{way}_blocks_{block}_{'attentions' if part == '1' else 'resnets'}_{layer}"
    if "resnets" in parent:
        rest = RESNET.get(rest, rest)
    return f"{parent}_{rest}"


FORM = Form("kohya", recognises, read, write)
