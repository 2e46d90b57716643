"""What names of tensors and metadata tell before a file is read: its family, and other kinds."""

import re
from collections.abc import Collection, Mapping

from storyboard.errors import LoraError
from storyboard.models import families
from storyboard.models.families import Family

PLAIN = "give a plain LoRA (lora_down and lora_up) for Kolors, SDXL or SD 1.5"
WITHOUT_MARKS = "sd15"  # kohya's plain names, one text encoder
ARCHITECTURES = {  # names of tensors -> what a file with one of them is
    r"double_blocks|single_blocks|single_transformer_blocks": "a LoRA for Flux",
    r"joint_blocks": "a LoRA for Stable Diffusion 3",
    r"^(transformer|lora_transformer)[._]"
    r"|^diffusion_model\.(?!(input|middle|output)_)"
    r"|^lora_unet_(blocks|layers)_\d"
    r"|^(lora_unet_|base_model\.model\.)?transformer_blocks[._]\d": (
        "a LoRA for a diffusion transformer, not for a UNet"
    ),
}
KINDS = {  # the same of files that are no plain LoRA
    r"\.dora_scale$|lora_magnitude_vector": "a DoRA",
    r"\.hada_": "a LoHa",
    r"\.lokr_": "a LoKr",
    r"\.lora_mid\.": "a LoCon with a Tucker core",
    r"\.oft_": "an OFT",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$": "an (IA)3",
    r"\.diff(_b)?$|\.[wb]_norm$": "a file of whole weight differences",
    r"\.lora_[AB]\.bias$|\.lora_(up|down)\.bias$": "a LoRA with biases",
    r"^lllite_": "a ControlNet-LLLite",
    r"^(emb_params|string_to_param|string_to_token|clip_[lg])$": (
        "an embedding (textual inversion)"
    ),
}
# an embedding that a LoRA brings along: cloneofsimo/lora's, kohya's form
EMBEDDED_WORD = re.compile(r"<[^<>]+>|bundle_emb\..+")


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
    refuse_kinds(path, unread, keys)
    raise LoraError(
        f"{len(unread)} of the {len(keys)} tensors in {path} are not those of a LoRA for a UNet "
        f"and its text encoders (such as {min(unread)}): {PLAIN}."
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
            f"{min(words)}): bring it in with import_lora, which leaves them out."
        )


def _refuse(path: object, kind: str, keys: Collection[str], count: int) -> None:
    raise LoraError(
        f"{path} is {kind} ({len(keys)} of its {count} tensors, such as {min(keys)}), "
        f"which is not read: {PLAIN}."
    )
