"""The ``.ckpt`` of the course of 2024: ``blocks.7.transformer_blocks.0.attn1.to_q.lora_A.…``.

DiffSynth-Studio 1.1.9 numbered the blocks of its own SDXL UNet (diffsynth/models/sdxl_unet.py).
"""

import re

from storyboard.lora import names
from storyboard.lora.assembling import assemble
from storyboard.lora.forms import peft
from storyboard.lora.forms.registry import Form
from storyboard.lora.state import LoraFile, LoraState, Place

ALPHA = 4.0  # the course's script trained with it and wrote it nowhere
ATTENTION_BLOCKS = {
    7: "down_blocks.1.attentions.0",
    10: "down_blocks.1.attentions.1",
    15: "down_blocks.2.attentions.0",
    18: "down_blocks.2.attentions.1",
    21: "mid_block.attentions.0",
    25: "up_blocks.0.attentions.0",
    28: "up_blocks.0.attentions.1",
    31: "up_blocks.0.attentions.2",
    35: "up_blocks.1.attentions.0",
    38: "up_blocks.1.attentions.1",
    41: "up_blocks.1.attentions.2",
}
RENAMED = ((".to_out", ".to_out.0"), (".act_fn.proj", ".ff.net.0.proj"), (".ff", ".ff.net.2"))
NUMBERED = re.compile(r"blocks\.([0-9]{1,4})\.(.+)")


def recognises(key: str) -> bool:
    return key.startswith("blocks.") and peft.split(key) is not None


def read(file: LoraFile) -> LoraState:
    """A tensor in a block without attention is left out, and so refused by the registry."""
    places = {}
    for key in file.tensors:
        module, part = peft.split(key)
        match = NUMBERED.fullmatch(module)
        if match and int(match[1]) in ATTENTION_BLOCKS:
            name = _diffusers_name(ATTENTION_BLOCKS[int(match[1])], match[2])
            places[key] = Place(names.module_path("unet", name), part)
    return assemble(file, places, lambda path, rank: ALPHA)


def _diffusers_name(block: str, module: str) -> str:
    name = f"{block}.{module.replace('.processor.', '.')}"
    for old, new in RENAMED:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


FORM = Form("course", recognises, read)
