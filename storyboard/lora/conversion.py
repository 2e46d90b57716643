"""The LoRA in kohya's, diffusers' and DiffSynth-Studio's form, each into each without loss."""

import base64
import io
import json
import re
from pathlib import Path

import torch
from PIL import Image

from storyboard import artifacts
from storyboard.errors import LoraError
from storyboard.lora import file as lora_file
from storyboard.lora import importing as lora_import
from storyboard.lora.file import Lora

FORMS = ("diffusers", "diffsynth", "kohya")
# Names of a UNet2DConditionModel's modules; those with an underscore first, for kohya's form writes one for every dot too
NAMES = (
    "down_blocks",
    "up_blocks",
    "mid_block",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "proj_in",
    "proj_out",
    "time_emb_proj",
    "conv_shortcut",
    "conv_in",
    "conv_out",
    "conv_norm_out",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    "encoder_hid_proj",
    "attentions",
    "resnets",
    "downsamplers",
    "upsamplers",
    r"attn\d",
    "ff",
    "net",
    "proj",
    r"norm\d?",
    r"conv\d?",
    r"\d+",
)
TEXT_NAMES = (  # of a CLIPTextModel's, with and without projection
    "text_model",
    "encoder",
    "layers",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "mlp",
    "fc1",
    "fc2",
    "text_projection",
    r"\d+",
)
THUMBNAIL = 256  # pixels, the longer side
NAME = rf"(?:{'|'.join(NAMES)})(?=_|$)"
TEXT_NAME = rf"(?:{'|'.join(TEXT_NAMES)})(?=_|$)"


def convert(
    lora: Lora | Path | str,
    form: str,
    target: Path | str | None = None,
    thumbnail: Path | str | None = None,
) -> Path:
    """Write ``lora`` in another form, by default beside it as ``lora.<form>.safetensors``; returns the path.

    All values stay bit for bit, and so does alpha: kohya's form holds it in a tensor for each module, diffusers' in
    peft's configuration among the metadata, DiffSynth's in a tensor for each module, or nowhere where every module's alpha is its rank.
    Metadata (``ss_*``, ``modelspec.*``) go along.

    Args:
        lora: In any form that ``import_lora`` reads.
        form: ``"diffusers"``, ``"diffsynth"`` or ``"kohya"``.
        thumbnail: A picture that shows what it does, for ``modelspec.thumbnail``.

    Raises:
        LoraError: Another form, no such file, modules that no UNet or text encoder of these bases has, or DiffSynth's
            form for a LoRA with a text encoder's part.
    """
    if form not in FORMS:
        raise LoraError(f"form={form!r} must be one of {', '.join(map(repr, FORMS))}.")
    path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser()
    tensors, facts = lora_import.read(path)
    facts = {
        key: value
        for key, value in facts.items()
        if key not in (lora_import.CONFIGURATION, "format")
    }
    if form != "kohya":
        tensors, more = (_diffusers if form == "diffusers" else _diffsynth)(
            path, *_split(path, tensors)
        )
        facts |= more
    if thumbnail is not None:
        facts["modelspec.thumbnail"] = _thumbnail(Path(thumbnail))
    stem = path.stem.removesuffix(
        next((f".{known}" for known in FORMS if path.stem.endswith(f".{known}")), "")
    )
    target = Path(target) if target else path.with_name(f"{stem}.{form}.safetensors")
    artifacts.write_atomically(target, lora_file.serialised(tensors, facts))
    return target


def _thumbnail(path: Path) -> str:
    """A small JPEG as a data URI (https://github.com/Stability-AI/ModelSpec); nothing of the file but its pixels enters it."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def module_name(name: str) -> str | None:
    """``lora_unet_mid_block_attentions_0_proj_in`` -> ``mid_block.attentions.0.proj_in``; None if no base has it."""
    component = lora_file.component_of(name) or "unet"
    part = NAME if component == "unet" else TEXT_NAME
    module = name.removeprefix(
        next((prefix for prefix in lora_file.COMPONENTS if name.startswith(prefix)), "")
    )
    return (
        ".".join(re.findall(part, module)) if re.fullmatch(rf"{part}(?:_{part})*", module) else None
    )


def _split(
    path: Path, tensors: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """kohya's form -> peft's ``component.module.lora_A.weight`` and ``lora_B.weight``, and each module's alpha."""
    modules = {name: module_name(name) for name in {key.partition(".")[0] for key in tensors}}
    if strange := sorted(name for name, module in modules.items() if module is None):
        raise LoraError(
            f"{len(strange)} of the {len(modules)} modules in {path} are not those of a UNet or a text encoder (such as {strange[0]}): only LoRAs for Kolors, SDXL and SD 1.5 are converted."
        )
    state, alpha = {}, {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        module = f"{lora_file.component_of(name)}.{modules[name]}"
        if part == "alpha":
            alpha[module] = float(tensor)
        else:
            state[f"{module}.lora_{'A' if part.startswith('lora_down') else 'B'}.weight"] = tensor
    return state, alpha


def _ranks(state: dict[str, torch.Tensor]) -> dict[str, int]:
    return {
        key.removesuffix(".lora_A.weight"): len(tensor)
        for key, tensor in sorted(state.items())
        if key.endswith(".lora_A.weight")
    }


def _diffusers(
    path: Path,
    state: dict[str, torch.Tensor],
    alpha: dict[str, float],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """``unet.module.lora_A.weight``, with peft's configuration as ``save_lora_weights`` writes it (diffusers/loaders/lora_base.py)."""
    ranks, configuration = _ranks(state), {}
    for component in dict.fromkeys(module.partition(".")[0] for module in ranks):
        own = [module for module in ranks if module.startswith(f"{component}.")]
        rank, scale = max(ranks[module] for module in own), alpha[own[0]]
        # only some versions of transformers begin a text encoder's names with text_model.: matched by their ends
        name = {
            module: module.removeprefix(f"{component}.").removeprefix("text_model.")
            for module in own
        }
        anchor = "^" if component == "unet" else ""
        settings = {
            "r": rank,
            "lora_alpha": scale,
            "target_modules": [name[module] for module in own],
            "rank_pattern": {
                f"{anchor}{name[module]}": ranks[module] for module in own if ranks[module] != rank
            },
            "alpha_pattern": {
                f"{anchor}{name[module]}": alpha[module] for module in own if alpha[module] != scale
            },
        }
        configuration |= {f"{component}.{key}": value for key, value in settings.items()}
    return state, {lora_import.CONFIGURATION: json.dumps(configuration, indent=2, sort_keys=True)}


def _diffsynth(
    path: Path,
    state: dict[str, torch.Tensor],
    alpha: dict[str, float],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """``module.lora_A.default.weight`` as DiffSynth trains it; its loader scales by ``module.alpha / rank`` (diffsynth/utils/lora/general.py)."""
    if text := [module for module in alpha if not module.startswith("unet.")]:
        raise LoraError(
            f"{path} changes {len(text)} modules of a text encoder, for which DiffSynth-Studio's form has no names: "
            "convert it to 'diffusers' or 'kohya'."
        )
    ranks = _ranks(state)
    state = {key.removeprefix("unet."): tensor for key, tensor in state.items()}
    found = {re.sub(r"\.weight$", ".default.weight", key): tensor for key, tensor in state.items()}
    if len(set(ranks.values())) > 1 or alpha != ranks:
        found |= {
            f"{module.removeprefix('unet.')}.alpha": torch.tensor(value)
            for module, value in alpha.items()
        }
    return found, {}
