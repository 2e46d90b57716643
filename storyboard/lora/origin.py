"""What a LoRA was made for, as far as its metadata and its tensors tell."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

VERSIONS = ("ss_base_model_version", "modelspec.architecture", "base_model", "baseModel")
V2 = "ss_v2"  # sd-scripts' option for Stable Diffusion 2
MODELS = (  # what a version says -> how people call it, and its family here if it is one of ours
    (r"kolors", "Kolors", "kolors"),
    (r"xl.*refiner", "the SDXL refiner", None),
    (r"flux", "Flux", None),
    (r"qwen", "Qwen-Image", None),
    (r"z[-_ ]?image", "Z-Image", None),
    (r"hunyuan", "Hunyuan", None),
    (r"lumina", "Lumina", None),
    (r"chroma", "Chroma", None),
    (r"hidream", "HiDream", None),
    (r"pixart", "PixArt", None),
    (r"cascade", "Stable Cascade", None),
    (r"aura[-_ ]?flow", "AuraFlow", None),
    (r"anima(?!g)", "Anima", None),
    (r"krea", "Krea", None),
    (r"^wan|wan[-_ ]?2", "Wan", None),
    (r"ltx|cogvideo|mochi|cosmos|sana", "a diffusion transformer", None),
    (r"sd[-_ ]?v?3|stable-diffusion-v?3", "Stable Diffusion 3", None),
    (r"sd[-_ ]?xl|stable-diffusion-xl|pony|illustrious|noobai", "Stable Diffusion XL", "sdxl"),
    (r"sd[-_ ]?v?2|stable-diffusion-v?2", "Stable Diffusion 2", None),
    (r"sd[-_ ]?v?1|stable-diffusion-v?1", "Stable Diffusion 1.5", "sd15"),
)
BY_NAME = {"Stable Diffusion XL": "sdxl", "Stable Diffusion 1.5": "sd15", "Kolors": "kolors"}
SAME_UNET = "Stable Diffusion XL or Kolors, whose UNets have the same names"
SECOND_ENCODER = re.compile(r"^lora_te2_text|(^|[._])(text_encoder_2|clip_g)\.")
OF_FIRST_FAMILY = re.compile(  # blocks in which only the first family has attention
    r"down_blocks[._]0[._]attentions|up_blocks[._]3[._]attentions"
    r"|input_blocks[._][12][._]1|output_blocks[._](9|10|11)[._]1"
)
OF_LARGE_UNET = re.compile(r"transformer_blocks[._][1-9]")  # more than one layer in a block
CONTEXT = re.compile(r"attn2[._]to_[kv][._].*(down|lora_A)")
ADDED = re.compile(r"(add_embedding[._]linear_1|label_emb[._]0[._]0)[._].*(down|lora_A)")
CONTEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: SAME_UNET}
ADDED_WIDTHS = {2816: "Stable Diffusion XL", 5632: "Kolors"}


class Origin(NamedTuple):
    """What a LoRA was made for.

    Attributes:
        title: How people call it.
        family: Its family here; None where it is none of ours, or one of several.
    """

    title: str
    family: str | None


def of_metadata(metadata: Mapping[str, str]) -> Origin | None:
    """What the metadata name; None where they name nothing that is known."""
    for key in VERSIONS:
        version = metadata.get(key, "").lower()
        for pattern, title, family in MODELS:
            if re.search(pattern, version):
                return Origin(title, family)
    return Origin("Stable Diffusion 2", None) if metadata.get(V2) == "True" else None


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> Origin | None:
    """What names and shapes of the tensors in a file tell; None where that is nothing."""
    titles = {
        title
        for pattern, widths in ((ADDED, ADDED_WIDTHS), (CONTEXT, CONTEXT_WIDTHS))
        for title in [_by_width(tensors, pattern, widths)]
        if title
    }
    if any(SECOND_ENCODER.search(key) for key in tensors):
        titles.add("Stable Diffusion XL")
    exact = titles - {SAME_UNET}
    if len(exact) == 1:
        (title,) = exact
        return Origin(title, BY_NAME.get(title))

    if any(OF_FIRST_FAMILY.search(key) for key in tensors):
        return Origin("Stable Diffusion 1.5 or 2", "sd15")
    if titles or any(OF_LARGE_UNET.search(key) for key in tensors):
        return Origin(SAME_UNET, None)
    return None


def _by_width(
    tensors: Mapping[str, torch.Tensor], pattern: re.Pattern, titles: Mapping[int, str]
) -> str | None:
    """What all tensors whose names match are as wide as; None where they differ."""
    widths = {
        tensor.shape[1]
        for key, tensor in tensors.items()
        if tensor.ndim >= 2 and pattern.search(key)
    }
    return titles.get(widths.pop()) if len(widths) == 1 else None
