"""A base that is a path: a diffusers folder by its configs, a single file by its tensor names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from storyboard.errors import BaseError, brief
from storyboard.models import configs, families, objective
from storyboard.models.base import Base
from storyboard.models.families import Family, Lookalike
from storyboard.models.objective import SCHEDULER_CONFIG
from storyboard.models.safetensors_header import read_header

INDEX = "model_index.json"
UNET_CONFIG = "unet/config.json"
VAE_CONFIG = "vae/config.json"
REQUIRED = (INDEX, SCHEDULER_CONFIG, UNET_CONFIG, VAE_CONFIG)

OTHER_MODELS = {  # start of names of tensors that only these have
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
}
CONTROLNET = "control_model."
QUOTES = ("'", '"')
SUPPORTED_TYPES = ("F16", "BF16", "F32")
NORMALISATIONS = ("latents_mean", "latents_std", "shift_factor")  # Playground v2.5 has the first


def opened(path: Path, known: Sequence[Base]) -> Base:
    """The base at ``path``, with the settings of the one of ``known`` that it is built on.

    Raises:
        BaseError: It is damaged, of no known family, or was trained on another kind of noise
            schedule.
    """
    if path.is_dir():
        return _folder(path, known)
    if path.is_file():
        return _single_file(path, known)
    raise BaseError(
        f"base={str(path)!r} is neither a folder nor a file: name a diffusers folder or a "
        ".safetensors file."
    )


def refuse(name: str, lookalike: Lookalike) -> NoReturn:
    """Raise BaseError: the base ``name`` is ``lookalike``."""
    advice = lookalike.advice or f"only {families.titles()} can be fine-tuned here"
    raise BaseError(f"base={name!r} is {lookalike.title}: {advice}.")


def _folder(path: Path, known: Sequence[Base]) -> Base:
    files = _configs(path)
    family = _family_of_folder(path, files)
    unet, schedule = files[UNET_CONFIG], files[SCHEDULER_CONFIG]
    _check_channels(path, unet.get("in_channels", family.latent_channels), family)
    _check_vae(path, files[VAE_CONFIG])

    template = _template(path, family, known, unet)
    prediction_type, zero_terminal_snr = objective.of_folder(path, schedule)
    timesteps, beta_start, beta_end = objective.betas_of_folder(path, schedule, template)
    return replace(
        template,
        name=_own_name(path.resolve().name, known),
        title=f"{path} ({template.title})",
        folder=path,
        modelscope=None,
        huggingface=None,
        download=0,
        embedded=False,
        num_train_timesteps=timesteps,
        beta_start=beta_start,
        beta_end=beta_end,
        prediction_type=prediction_type,
        zero_terminal_snr=zero_terminal_snr,
    )


def _single_file(path: Path, known: Sequence[Base]) -> Base:
    template = _largest(path, _family_of_file(path), known)
    prediction_type, zero_terminal_snr = objective.of_single_file(path)
    return replace(
        template,
        name=_own_name(path.stem, known),
        title=f"{path.name} ({template.title})",
        folder=None,
        embedded=False,
        checkpoint=path,
        prediction_type=prediction_type,
        zero_terminal_snr=zero_terminal_snr,
    )


def _own_name(name: str, known: Sequence[Base]) -> str:
    """``name``, or another where a known base has it: records and bundles tell bases by name."""
    return f"{name}-own" if name in {base.name for base in known} else name


def _configs(path: Path) -> dict[str, dict]:
    """The JSON files of a folder that families are recognised by; absent ones are empty.

    Raises:
        BaseError: One is damaged, or has a value that no model can have.
    """
    recognised_by = [family.configs for family in families.known()]
    recognised_by += [like.configs for family in families.known() for like in family.lookalikes]
    names = {*REQUIRED, *(name for each in recognised_by for name in each)}

    read = {}
    for name in sorted(names):
        file = path / name
        read[name] = configs.read(file) if file.is_file() else {}
        configs.check_values(file, read[name])
    return read


def _family_of_folder(path: Path, files: Mapping[str, dict]) -> Family:
    for family in families.known():
        for lookalike in family.lookalikes:
            if lookalike.matches(files):
                refuse(str(path), lookalike)
        if family.recognises(files):
            break
    else:
        family = None

    for name in REQUIRED:
        if not files[name]:
            _refuse_folder(path, f"{path / name} is missing or empty")
    if family is None:
        pipelines = ", ".join(sorted({family.pipeline for family in families.known()}))
        kind = brief(files[INDEX].get("_class_name"))
        raise BaseError(
            f"base={str(path)!r} holds a {kind[1:-1] if kind[0] in QUOTES else kind}: "
            f"only {pipelines} can be fine-tuned here."
        )
    return family


def _refuse_folder(path: Path, reason: str) -> NoReturn:
    raise BaseError(
        f"base={str(path)!r} is no diffusers folder ({reason}): it needs model_index.json, "
        "scheduler, unet, vae, text_encoder and tokenizer."
    )


def _template(
    path: Path, family: Family, known: Sequence[Base], unet: Mapping[str, object]
) -> Base:
    """The base of ``family`` whose UNet has the same config.

    Without such a base it is the largest, at the UNet's own resolution.
    """
    for base in _of_family(path, family, known):
        if base.unet and all(unet.get(key) == value for key, value in base.unet.items()):
            return base

    largest, sample_size = _largest(path, family, known), unet.get("sample_size")
    if not isinstance(sample_size, int):
        return largest
    blocks = unet.get("block_out_channels")
    downsamplings = len(blocks) - 1 if isinstance(blocks, list) else 0
    smallest_step = family.vae_scale_factor * 2 ** max(downsamplings, 0)
    return replace(
        largest,
        resolution=family.vae_scale_factor * sample_size,
        resolution_step=min(largest.resolution_step, smallest_step),
    )


def _largest(path: Path, family: Family, known: Sequence[Base]) -> Base:
    return max(_of_family(path, family, known), key=lambda base: base.download)


def _of_family(path: Path, family: Family, known: Sequence[Base]) -> list[Base]:
    bases = [base for base in known if base.family.name == family.name and not base.checkpoint]
    if not bases:
        raise BaseError(
            f"base={str(path)!r} is of the family {family.name!r}, of which no base is known: "
            "register one (storyboard.models.bases.register)."
        )
    return bases


def _check_channels(path: Path, channels: int, family: Family) -> None:
    """Raise BaseError where the UNet takes more than the noisy latents."""
    if channels != family.latent_channels:
        raise BaseError(
            f"base={str(path)!r} takes {channels} channels (an inpainting or editing model): "
            f"only text-to-image models of {family.latent_channels} are supported."
        )


def _check_vae(path: Path, vae: Mapping[str, object]) -> None:
    """Raise BaseError where latents are normalised by more than ``scaling_factor``."""
    for key in NORMALISATIONS:
        if vae.get(key):
            raise BaseError(
                f"base={str(path)!r} has a VAE with {key} in {VAE_CONFIG} (as Playground v2.5): "
                "only VAEs with a scaling_factor alone are supported."
            )


def _family_of_file(path: Path) -> Family:
    if path.suffix.lower() != ".safetensors":
        raise BaseError(
            f"base={str(path)!r} is neither a folder nor a .safetensors file: older formats can "
            "run code when they are read, convert it first."
        )

    header = read_header(path)
    if any(".lora_" in name or name.endswith(".alpha") for name in header):
        raise BaseError(
            f"base={str(path)!r} is a LoRA, not a base: give it to render() or import_lora(), "
            "and set base to what it was trained on."
        )
    if any(name.startswith(CONTROLNET) for name in header):
        refuse(str(path), Lookalike("a ControlNet"))
    for family in families.known():
        for lookalike in family.lookalikes:
            if lookalike.names(header):
                refuse(str(path), lookalike)
        if family.names(header):
            first = header[family.single_file.first_layer]
            _check_channels(path, first["shape"][1], family)
            _check_type(path, first["dtype"])
            return family

    raise _unknown_file(path, header)


def _check_type(path: Path, dtype: str) -> None:
    if dtype not in SUPPORTED_TYPES:
        raise BaseError(
            f"base={str(path)!r} holds numbers of the type {dtype}: "
            "get the checkpoint in fp16, bf16 or fp32."
        )


def _unknown_file(path: Path, header: Mapping[str, dict]) -> BaseError:
    """The error for a file of no known family."""
    for prefix, title in OTHER_MODELS.items():
        if any(name.startswith(prefix) for name in header):
            refuse(str(path), Lookalike(title))

    readable = [family.title for family in reversed(families.known()) if family.single_file]
    return BaseError(
        f"base={str(path)!r} is no whole checkpoint of {' or '.join(readable)}: "
        f"UNet or text encoder are missing, "
        f"it holds {brief(min(header, default='nothing'))[1:-1]} and others."
    )
