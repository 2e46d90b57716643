"""A base that is a path: a diffusers folder, or one file in the original layout of SD 1.5 or SDXL."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from storyboard.errors import BaseError
from storyboard.models import families
from storyboard.models.base import Base, metadata, read_header
from storyboard.models.families import Family

UNET = "model.diffusion_model."
REFUSED = {  # a prefix that only these have
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "control_model.": "a ControlNet",
}
KOLORS_ORIGINAL = "Kwai-Kolors/Kolors"  # its text encoder is pickled and brings code of its own
PREDICTIONS = {  # what modelspec.prediction_type and scheduler_config.json call them
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}
EDM_KEYS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")  # Playground v2.5, CosXL
SD2_WIDTH = (
    1024  # cross_attention_dim of Stable Diffusion 2, whose pipeline class is that of SD 1.5
)


def opened(path: Path, known: Sequence[Base]) -> Base:
    """The base at ``path``, with the settings of the one of ``known`` that it is built on.

    Raises:
        BaseError: It is not one of Kolors, SDXL and SD 1.5, or was trained on another kind of noise schedule.
    """
    if path.is_dir():
        return _folder(path, known)
    template = _template(path, _family_of_file(path), known)
    prediction, zero_terminal_snr = _file_objective(path)
    return replace(
        template,
        name=path.stem,
        title=f"{path.name} ({template.title})",
        checkpoint=path,
        prediction_type=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )


def refuse_original_kolors(name: str) -> None:
    """Raise BaseError: ``name`` is Kolors in its original layout."""
    raise BaseError(
        f"base={name!r} is Kolors in its original layout, whose text encoder can run code when it is read: "
        f'set base="kolors", which fetches {KOLORS_ORIGINAL}-diffusers, or give a folder that holds that.'
    )


def _folder(path: Path, known: Sequence[Base]) -> Base:
    if _is_original_kolors(path):
        refuse_original_kolors(str(path))
    read = lambda name: json.loads((path / name).read_text(encoding="utf-8"))
    try:
        index, schedule = read("model_index.json"), read("scheduler/scheduler_config.json")
        unet, vae = read("unet/config.json"), read("vae/config.json")
    except (OSError, ValueError) as error:
        raise BaseError(
            f"base={str(path)!r} is no diffusers folder ({type(error).__name__}: {error}): it needs model_index.json, scheduler, unet, vae, text_encoder and tokenizer."
        ) from error
    configs = {"model_index.json": index, "unet/config.json": unet, "vae/config.json": vae}
    family = next((each for each in families.known() if each.recognises(configs)), None)
    if family is None:
        names = ", ".join(sorted(each.pipeline for each in families.known()))
        raise BaseError(
            f"base={str(path)!r} holds a {index.get('_class_name')}: "
            f"only {names} can be fine-tuned here."
        )
    template = _template(path, family, known, unet)
    _check_unet(path, unet, template)
    _check_vae(path, vae)
    prediction, zero_terminal_snr = _folder_objective(path, schedule)
    return replace(
        template,
        name=path.resolve().name,
        title=f"{path} ({template.title})",
        folder=path,
        modelscope=None,
        huggingface=None,
        download=0,
        num_train_timesteps=schedule.get("num_train_timesteps", template.num_train_timesteps),
        beta_start=schedule.get("beta_start", template.beta_start),
        beta_end=schedule.get("beta_end", template.beta_end),
        prediction_type=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )


def _template(
    path: Path, family: Family, known: Sequence[Base], unet: Mapping[str, object] | None = None
) -> Base:
    """The base of ``family`` that what lies at ``path`` is built on.

    That is the one whose UNet has the same config, else the largest, at the UNet's own resolution.
    """
    own = [base for base in known if base.family == family and not base.checkpoint]
    if not own:
        raise BaseError(
            f"base={str(path)!r} is of the family {family.name!r}, of which no base is known: "
            "register one (storyboard.models.bases.register)."
        )
    largest = max(own, key=lambda base: base.download)
    if unet is None:
        return largest
    same = [
        base
        for base in own
        if base.unet and all(unet.get(key) == value for key, value in base.unet.items())
    ]
    if same:
        return same[0]
    side = unet.get("sample_size")
    return replace(largest, resolution=8 * side) if isinstance(side, int) else largest


def _is_original_kolors(path: Path) -> bool:
    """Whether ``path`` is a copy of Kwai-Kolors/Kolors: ChatGLM3 for a text encoder, and not diffusers' KolorsPipeline."""
    said = lambda name: (
        (path / name).read_text(encoding="utf-8", errors="replace")
        if (path / name).is_file()
        else ""
    )
    return "chatglm" in said("text_encoder/config.json").lower() and "KolorsPipeline" not in said(
        "model_index.json"
    )


def _check_unet(path: Path, unet: dict, template: Base) -> None:
    """Raise BaseError where the UNet's config is not that of a text-to-image model of ``template``'s family."""
    if (width := unet.get("in_channels", 4)) != 4:
        raise BaseError(
            f"base={str(path)!r} takes {width} channels (an inpainting or editing model): only text-to-image models of 4 are supported."
        )
    if template.family.name == "sd15" and unet.get("cross_attention_dim") == SD2_WIDTH:
        raise BaseError(
            f"base={str(path)!r} is Stable Diffusion 2: only SD 1.5, SDXL and Kolors can be fine-tuned here."
        )


def _check_vae(path: Path, vae: dict) -> None:
    """Raise BaseError where latents are normalised by more than ``scaling_factor``, as those of Playground v2.5 are."""
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key):
            raise BaseError(
                f"base={str(path)!r} has a VAE with {key} in vae/config.json (as Playground v2.5): only VAEs with a scaling_factor alone are supported."
            )


def _folder_objective(path: Path, schedule: dict) -> tuple[str, bool]:
    """``prediction_type`` and whether the SNR ends at zero, by scheduler_config.json; BaseError for other kinds of noise schedule."""
    kind, file = str(schedule.get("_class_name", "")), "scheduler/scheduler_config.json"
    name, only = (
        schedule.get("prediction_type", "epsilon"),
        "only discrete schedules with scaled_linear betas are supported",
    )
    if "EDM" in kind:
        raise BaseError(
            f"base={str(path)!r} has an EDM schedule ({kind} in {file}; Playground v2.5 and CosXL have one): {only}."
        )
    if "Flow" in kind or schedule.get("use_flow_sigmas") or name == "flow_prediction":
        raise BaseError(
            f"base={str(path)!r} was trained by flow matching ({kind} in {file}): {only}."
        )
    if schedule.get("trained_betas") is not None:
        raise BaseError(
            f"base={str(path)!r} has a noise schedule of its own (trained_betas in {file}): {only}."
        )
    if (betas := schedule.get("beta_schedule", "scaled_linear")) != "scaled_linear":
        raise BaseError(f"base={str(path)!r} has the beta_schedule {betas!r} in {file}: {only}.")
    if name not in PREDICTIONS:
        raise BaseError(
            f"base={str(path)!r} has the prediction_type {name!r} in {file}: only epsilon and v_prediction are supported."
        )
    return _objective(
        path,
        PREDICTIONS[name],
        bool(schedule.get("rescale_betas_zero_snr")),
        f"rescale_betas_zero_snr in {file}",
    )


def _file_objective(path: Path) -> tuple[str, bool]:
    """``prediction_type`` and whether the SNR ends at zero, of a single file: its keys ``v_pred`` and ``ztsnr``, else its modelspec.

    ComfyUI (comfy/supported_models.py) and the web UIs go by the same keys.
    """
    names, said = (
        read_header(path).keys(),
        metadata(path).get("modelspec.prediction_type") or "epsilon",
    )
    if edm := [key for key in EDM_KEYS if key in names]:
        raise BaseError(
            f"base={str(path)!r} has an EDM schedule (the key {edm[0]}; Playground v2.5 and CosXL have one): only epsilon and v_prediction are supported."
        )
    if "v_pred" in names:
        said = "v_prediction"
    if said.lower() not in PREDICTIONS:
        raise BaseError(
            f"base={str(path)!r} has the modelspec.prediction_type {said!r}: only epsilon and v_prediction are supported."
        )
    return _objective(path, PREDICTIONS[said.lower()], "ztsnr" in names, "the key ztsnr")


def _objective(
    path: Path, prediction: str, zero_terminal_snr: bool, where: str
) -> tuple[str, bool]:
    """Both as they are; BaseError for noise predicted where the input is nothing but noise (https://arxiv.org/abs/2305.08891, section 3.2)."""
    if zero_terminal_snr and prediction == "epsilon":
        raise BaseError(
            f"base={str(path)!r} predicts epsilon on a schedule with zero terminal SNR ({where}), where that says nothing of the picture: only v_prediction goes with it."
        )
    return prediction, zero_terminal_snr


def _family_of_file(path: Path) -> Family:
    if path.suffix != ".safetensors":
        raise BaseError(
            f"base={str(path)!r} is neither a folder nor a .safetensors file: older formats can run code when they are read, convert it first."
        )
    names = read_header(path)
    starts = lambda prefix: any(name.startswith(prefix) for name in names)
    if any(".lora_" in name or name.endswith(".alpha") for name in names):
        raise BaseError(
            f"base={str(path)!r} is a LoRA, not a base: give it to render() or import_lora(), and set base to what it was trained on."
        )
    for prefix, what in REFUSED.items():
        if starts(prefix):
            raise BaseError(
                f"base={str(path)!r} is {what}: only SD 1.5, SDXL and Kolors can be fine-tuned here."
            )
    first = names.get(f"{UNET}input_blocks.0.0.weight")
    kinds = [family for family in families.known() if family.single_file]
    family = next((each for each in kinds if all(map(starts, each.single_file.values()))), None)
    if first is None or family is None:  # without a VAE it takes its base's
        raise BaseError(
            f"base={str(path)!r} is not a whole SD 1.5 or SDXL checkpoint: expected {UNET}* and a text encoder, found such as {min(names, default='nothing')}."
        )
    if first["shape"][1] != 4:
        raise BaseError(
            f"base={str(path)!r} takes {first['shape'][1]} channels (an inpainting model): only text-to-image models of 4 are supported."
        )
    if first["dtype"] not in ("F16", "BF16", "F32"):
        raise BaseError(
            f"base={str(path)!r} holds numbers of the type {first['dtype']}: get the checkpoint in fp16, bf16 or fp32."
        )
    return family
