"""What names of tensors and metadata tell before a file is read: its family, and other kinds."""

import re
from collections.abc import Collection, Mapping

from storyboard.errors import LoraError
from storyboard.lora.names import shown
from storyboard.models import families
from storyboard.models.families import Family

PLAIN = "give a plain LoRA (lora_down and lora_up) for Kolors, SDXL or SD 1.5"
WITHOUT_MARKS = "sd15"  # kohya's plain names, one text encoder
TRANSFORMER = "a LoRA for a diffusion transformer, not for a UNet"
ARCHITECTURES = {  # names of tensors -> what a file with one of them is
    r"double_blocks|single_blocks|single_transformer_blocks": "a LoRA for Flux",
    r"joint_blocks|joint_transformer_blocks": "a LoRA for Stable Diffusion 3",
    r"txtfusion": "a LoRA for Krea 2",
    r"(blocks|block)[._]\d+[._](img|txt)_(mlp|mod)": "a LoRA for Qwen-Image",
    r"layers[._]\d+[._](attention|adaLN_modulation|feed_forward)": "a LoRA for Z-Image or Lumina",
    r"(^|[._])blocks[._]\d+[._]cross_attn": "a LoRA for Wan or Anima",
    r"(^|[._])(llm_adapter|context_refiner|noise_refiner|caption_projection)[._]": TRANSFORMER,
    r"^(transformer|lora_transformer)[._]"
    r"|^diffusion_model\.(?!(input|middle|output)_|out\.|time_embed|label_emb|(down|mid|up)_block)"
    r"|^lora_unet_(blocks|layers)_[0-9]"
    r"|^(lora_unet_|base_model\.model\.)?transformer_blocks[._][0-9]": TRANSFORMER,
    r"^lora_te\d?_encoder_block_\d+_layer|lora_(te3|t5)": "a LoRA with a T5 text encoder",
}
KINDS = {  # the same of files that are no plain LoRA
    r"\.dora_scale$|lora_magnitude_vector": "a DoRA",
    r"\.hada_": "a LoHa in a form that is not known",
    r"\.lokr_": "a LoKr in a form that is not known",
    r"\.lora_mid\.": "a LoCon with a Tucker core in a form that is not known",
    r"\.oft_|\.oft_R": "an OFT",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$": "an (IA)3",
    r"\.diff(_b)?$|\.[wb]_norm$": "a file of whole weight differences",
    r"\.lora_[AB]\.bias$|\.lora_(up|down)\.bias$": "a LoRA with biases",
    r"^lllite_": "a ControlNet-LLLite",
    r"^(control_model|controlnet_\w+)\.": "a ControlNet",
    r"^(image_proj|ip_adapter)\.": "an IP-Adapter",
    r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.": (
        "a whole checkpoint"
    ),
    r"^(emb_params|string_to_param|string_to_token|clip_[lg])$": (
        "an embedding (textual inversion)"
    ),
}
# an embedding that a LoRA brings along: cloneofsimo/lora's, kohya's form
LONGEST_NAME = 300  # characters of a tensor's name; those of Kolors, SDXL and SD 1.5 have 150
MOST_TENSORS = 100_000  # SDXL with both text encoders in LoKr has some 10,000
EMBEDDED_WORD = re.compile(r"<[^<>]+>|bundle_emb\..+")


def refuse_odd_names(path: object, keys: Collection[str]) -> None:
    """Raise LoraError where a file holds more tensors than any LoRA, or longer names."""
    if len(keys) > MOST_TENSORS:
        raise LoraError(
            f"{path} holds {len(keys)} tensors, more than a LoRA for a UNet and its text encoders "
            f"has: {PLAIN}."
        )
    long = [key for key in keys if len(key) > LONGEST_NAME]
    if long:
        refuse_unread(path, long, keys)


def family_of(keys: Collection[str], metadata: Mapping[str, str]) -> Family:
    """The family that a LoRA is for, by its metadata or by the names of its tensors.

    Kolors' UNet has SDXL's names, so that a LoRA of Kolors without metadata counts as SDXL's.
    """
    versions = [
        metadata.get(key, "") for key in ("ss_base_model_version", "modelspec.architecture")
    ]
    for family in families.known():
        if family.lora_versions and any(
            re.search(family.lora_versions, version) for version in versions
        ):
            return family
        if family.lora_keys and any(re.search(family.lora_keys, key) for key in keys):
            return family
    return families.by_name(WITHOUT_MARKS)


def refuse_other_architectures(path: object, keys: Collection[str], family: Family) -> None:
    """Raise LoraError where tensors belong to an architecture that is not ``family``'s."""
    for pattern, kind in ARCHITECTURES.items():
        other = [
            key
            for key in keys
            if re.search(pattern, key)
            and not (family.lora_keys and re.search(family.lora_keys, key))
        ]
        if other:
            _refuse(path, kind, other, len(keys))


def refuse_unread(path: object, unread: Collection[str], keys: Collection[str]) -> None:
    """Raise LoraError: no form recognises the tensors ``unread``, of ``keys`` in the file."""
    refuse_kinds(path, [key for key in unread if len(key) <= LONGEST_NAME], keys)
    raise LoraError(
        f"{len(unread)} of the {len(keys)} tensors in {path} are not those of a LoRA for a UNet "
        f"and its text encoders (such as {shown(min(unread))}): {PLAIN}."
    )


def refuse_kinds(path: object, unread: Collection[str], keys: Collection[str]) -> None:
    """Raise LoraError where tensors that no form recognises tell that a file is no plain LoRA."""
    for pattern, kind in KINDS.items():
        of_kind = [key for key in unread if re.search(pattern, key)]
        if of_kind:
            _refuse(path, kind, of_kind, len(keys))

    words = [key for key in unread if EMBEDDED_WORD.fullmatch(key)]
    if words and len(words) == len(keys):
        _refuse(path, "an embedding (textual inversion)", words, len(keys))
    if words:
        raise LoraError(
            f"{path} also brings {len(words)} embeddings of words of its own (such as "
            f"{shown(min(words))}): bring it in with import_lora, which leaves them out."
        )


def _refuse(path: object, kind: str, keys: Collection[str], count: int) -> None:
    raise LoraError(
        f"{path} is {kind} ({len(keys)} of its {count} tensors, such as {shown(min(keys))}), "
        f"which is not read: {PLAIN}."
    )
