"""The LoRA in kohya's, diffusers' and DiffSynth-Studio's form, each into each without loss."""

import base64
import io
import json
import re
from pathlib import Path

import torch
from PIL import Image

from .. import artifacts, lora as lora_file, lora_import
from ..errors import LoraError
from ..lora import Lora

FORMS = ("diffusers", "diffsynth", "kohya")
# Names of a UNet2DConditionModel's modules; those with an underscore first, for kohya's form writes one for every dot too
NAMES = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out", "time_emb_proj", "conv_shortcut",
    "conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding", "linear_1", "linear_2", "encoder_hid_proj",
    "attentions", "resnets", "downsamplers", "upsamplers", r"attn\d", "ff", "net", "proj", r"norm\d?", r"conv\d?", r"\d+",
)
THUMBNAIL = 256  # pixels, the longer side
NAME = rf"(?:{'|'.join(NAMES)})(?=_|$)"


def convert(lora: Lora | Path | str, form: str, target: Path | str | None = None, thumbnail: Path | str | None = None) -> Path:
    """Write ``lora`` in another form, by default beside it as ``lora.<form>.safetensors``; returns the path.

    All values stay bit for bit (fp32), and so does alpha: kohya's form holds it in a tensor for each module, diffusers' in
    peft's configuration among the metadata, DiffSynth's in a tensor for each module, or nowhere where every module's alpha is its rank.
    Metadata (``ss_*``, ``modelspec.*``) go along.

    Args:
        lora: In any form that ``import_lora`` reads.
        form: ``"diffusers"``, ``"diffsynth"`` or ``"kohya"``.
        thumbnail: A picture that shows what it does, for ``modelspec.thumbnail``.

    Raises:
        LoraError: Another form, no such file, or modules that no UNet of these bases has.
    """
    if form not in FORMS:
        raise LoraError(f"form={form!r} must be one of {', '.join(map(repr, FORMS))}.")
    path = lora.path if isinstance(lora, Lora) else Path(lora)
    tensors = lora_import.read(path)
    facts = lora_file.metadata(path) if path.suffix == ".safetensors" else {}
    facts = {key: value for key, value in facts.items() if key not in (lora_import.CONFIGURATION, "format")}
    if form != "kohya":
        tensors, more = (_diffusers if form == "diffusers" else _diffsynth)(*_split(path, tensors))
        facts |= more
    if thumbnail is not None:
        facts["modelspec.thumbnail"] = _thumbnail(Path(thumbnail))
    stem = path.stem.removesuffix(next((f".{known}" for known in FORMS if path.stem.endswith(f".{known}")), ""))
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
    """``lora_unet_mid_block_attentions_0_proj_in`` -> ``mid_block.attentions.0.proj_in``; None if no UNet has such a module."""
    name = name.removeprefix(lora_file.PREFIX)
    return ".".join(re.findall(NAME, name)) if re.fullmatch(rf"{NAME}(?:_{NAME})*", name) else None


def _split(path: Path, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """kohya's form -> peft's ``module.lora_A.weight`` and ``module.lora_B.weight``, and each module's alpha."""
    modules = {key.split(".")[0]: module_name(key.split(".")[0]) for key in tensors}
    if strange := sorted(name for name, module in modules.items() if module is None):
        raise LoraError(f"{len(strange)} of the {len(modules)} modules in {path} are not those of a UNet (such as {strange[0]}): only LoRAs for Kolors, SDXL and SD 1.5 are converted.")
    state, alpha = {}, {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part == "alpha":
            alpha[modules[name]] = float(tensor)
        else:
            state[f"{modules[name]}.lora_{'A' if part.startswith('lora_down') else 'B'}.weight"] = tensor
    return state, alpha


def _ranks(state: dict[str, torch.Tensor]) -> dict[str, int]:
    return {key.removesuffix(".lora_A.weight"): len(tensor) for key, tensor in sorted(state.items()) if key.endswith(".lora_A.weight")}


def _diffusers(state: dict[str, torch.Tensor], alpha: dict[str, float]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """``unet.module.lora_A.weight``, with peft's configuration as ``save_lora_weights`` writes it (diffusers/loaders/lora_base.py)."""
    ranks = _ranks(state)
    rank, scale = max(ranks.values()), alpha[next(iter(ranks))]
    configuration = {
        "r": rank, "lora_alpha": scale, "target_modules": list(ranks),
        "rank_pattern": {f"^{module}": value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{module}": alpha[module] for module in ranks if alpha[module] != scale},
    }
    text = json.dumps({f"unet.{key}": value for key, value in configuration.items()}, indent=2, sort_keys=True)
    return {f"unet.{key}": tensor for key, tensor in state.items()}, {lora_import.CONFIGURATION: text}


def _diffsynth(state: dict[str, torch.Tensor], alpha: dict[str, float]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """``module.lora_A.default.weight`` as DiffSynth trains it; its loader scales by ``module.alpha / rank`` (diffsynth/utils/lora/general.py)."""
    ranks = _ranks(state)
    found = {re.sub(r"\.weight$", ".default.weight", key): tensor for key, tensor in state.items()}
    if len(set(ranks.values())) > 1 or alpha != ranks:
        found |= {f"{module}.alpha": torch.tensor(value) for module, value in alpha.items()}
    return found, {}
