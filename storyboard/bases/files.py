"""A base that is a path: a diffusers folder, or one file in the original layout of SD 1.5 or SDXL."""

import json
from dataclasses import replace
from pathlib import Path

from ..errors import BaseError
from .base import Base, metadata, read_header

UNET = "model.diffusion_model."
PREFIXES = {  # of the text encoders in a single file, by what it is
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "sd15": ("cond_stage_model.transformer.",),
}
REFUSED = {  # a prefix that only these have
    "conditioner.embedders.0.model.": "an SDXL refiner", "cond_stage_model.model.": "Stable Diffusion 2", "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux", "model.diffusion_model.joint_blocks.": "Stable Diffusion 3", "control_model.": "a ControlNet",
}
KINDS = {"KolorsPipeline": "kolors", "StableDiffusionXLPipeline": "sdxl", "StableDiffusionPipeline": "sd15"}


def opened(path: Path, known: dict[str, Base]) -> Base:
    """The base at ``path``, with the settings of the one of ``known`` that it is built on.

    Raises:
        BaseError: It is not one of Kolors, SDXL and SD 1.5.
    """
    if path.is_dir():
        return _folder(path, known)
    template = known[_kind(path)]
    return replace(template, name=path.stem, title=f"{path.name} ({template.title})", checkpoint=path)


def _folder(path: Path, known: dict[str, Base]) -> Base:
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        schedule = json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        width = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8")).get("in_channels", 4)
    except (OSError, ValueError) as error:
        raise BaseError(f"base={str(path)!r} is no diffusers folder ({type(error).__name__}: {error}): it needs model_index.json, scheduler, unet, vae, text_encoder and tokenizer.") from error
    if index.get("_class_name") not in KINDS:
        raise BaseError(f"base={str(path)!r} holds a {index.get('_class_name')}: only {', '.join(KINDS)} can be fine-tuned here.")
    template = known[KINDS[index["_class_name"]]]
    if schedule.get("prediction_type", "epsilon") != "epsilon" or width != 4:
        raise BaseError(f"base={str(path)!r} predicts {schedule.get('prediction_type', 'epsilon')} from {width} channels: only models that predict noise (epsilon) from 4 are supported.")
    return replace(
        template, name=path.resolve().name, title=f"{path} ({template.title})", folder=path, modelscope=None, huggingface=None, download=0,
        num_train_timesteps=schedule.get("num_train_timesteps", template.num_train_timesteps),
        beta_start=schedule.get("beta_start", template.beta_start), beta_end=schedule.get("beta_end", template.beta_end),
    )


def _kind(path: Path) -> str:
    if path.suffix != ".safetensors":
        raise BaseError(f"base={str(path)!r} is neither a folder nor a .safetensors file: older formats can run code when they are read, convert it first.")
    names = read_header(path)
    starts = lambda prefix: any(name.startswith(prefix) for name in names)
    if any(".lora_" in name or name.endswith(".alpha") for name in names):
        raise BaseError(f"base={str(path)!r} is a LoRA, not a base: give it to render() or import_lora(), and set base to what it was trained on.")
    if names.keys() & {"v_pred", "edm_mean", "edm_vpred.sigma_max"} or metadata(path).get("modelspec.prediction_type", "epsilon") not in ("epsilon", "eps"):
        raise BaseError(f"base={str(path)!r} predicts velocity (v_pred), not noise: only models that predict noise (epsilon) are supported.")
    for prefix, what in REFUSED.items():
        if starts(prefix):
            raise BaseError(f"base={str(path)!r} is {what}: only SD 1.5, SDXL and Kolors can be fine-tuned here.")
    first = names.get(f"{UNET}input_blocks.0.0.weight")
    kind = next((kind for kind, prefixes in PREFIXES.items() if all(map(starts, prefixes))), None)
    if first is None or kind is None or not starts("first_stage_model."):
        raise BaseError(f"base={str(path)!r} is not a whole SD 1.5 or SDXL checkpoint: expected {UNET}*, first_stage_model.* and a text encoder, found such as {min(names, default='nothing')}.")
    if first["shape"][1] != 4:
        raise BaseError(f"base={str(path)!r} takes {first['shape'][1]} channels (an inpainting model): only text-to-image models of 4 are supported.")
    if first["dtype"] not in ("F16", "BF16", "F32"):
        raise BaseError(f"base={str(path)!r} holds numbers of the type {first['dtype']}: get the checkpoint in fp16, bf16 or fp32.")
    return kind
