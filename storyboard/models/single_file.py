"""A checkpoint in one file, in the original layout -> a diffusers folder, once; one component at a time."""

import gc
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

from storyboard import artifacts
from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, ResourceError
from storyboard.models import loading as models
from storyboard.models.base import header_length, read_header
from storyboard.models.bases import Base
from storyboard.models.recognition import UNET

CLASS_NAMES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
VAE = "first_stage_model."
SCHEDULER = "EulerDiscreteScheduler"  # unlike SD 1.5's PNDMScheduler it knows zero terminal SNR


def place(base: Base, root: Path) -> Path:
    """Where below ``root`` the converted ``base.checkpoint`` lies: another file at the same path has another place."""
    path = base.checkpoint.resolve()
    facts = path.stat()
    return (
        root
        / f"{path.stem}-{hashlib.sha256(f'{path}:{facts.st_size}:{facts.st_mtime_ns}'.encode()).hexdigest()[:12]}"
    )


def lacking(base: Base) -> tuple[str, ...]:
    """Components that ``base.checkpoint`` does not hold and takes from what it is built on: the VAE or none."""
    return () if any(name.startswith(VAE) for name in read_header(base.checkpoint)) else ("vae",)


def convert(base: Base, configs: Path, target: Path) -> None:
    """Write ``base.checkpoint`` as a diffusers folder at ``target``, whole or not at all.

    Args:
        configs: A folder with the configs and tokenizers of what the checkpoint is built on, and the weights of what is ``lacking``.

    Raises:
        BaseError: The file is cut off, or holds other weights than the configs describe.
        ResourceError: The disk is too small.
    """
    path = base.checkpoint
    header = read_header(path)
    expected = header_length(path) + max(
        (entry["data_offsets"][1] for entry in header.values()), default=0
    )
    size = path.stat().st_size
    if size != expected:
        raise BaseError(
            f"{path} is {size} bytes long where its header asks for {expected}: it is cut off, get it again."
        )
    if missing := artifacts.free_space_needed(target, size):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for {path.name} as a diffusers folder: free some space or set STORYBOARD_CACHE to another disk."
        )
    print(f"base: reading {path} ({size / 1e9:.1f} GB) into {target}", flush=True)
    borrowed = lacking(base)
    if borrowed:
        print(f"base: {path.name} holds no VAE, it takes that of {base.huggingface}", flush=True)
    with artifacts.building(target) as folder:
        for file in configs.rglob("*"):
            if (
                file.is_file()
                and file.suffix in {".json", ".txt"}
                and "safetensors" not in file.name
            ):
                (folder / file.relative_to(configs)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / file.relative_to(configs))
        if base.prediction_type != "epsilon":
            _write_schedule(base, folder)
        for component in base.components:
            if component in borrowed:
                _copy_weights(replace(base, folder=configs), component, folder)
                continue
            with quiet():
                _component(base, component, path, header, configs).save_pretrained(
                    folder / component, safe_serialization=True
                )
            gc.collect()


def _write_schedule(base: Base, folder: Path) -> None:
    """Let ``folder`` say what the UNet predicts, so that diffusers, too, draws right from it."""
    config = {
        "_class_name": SCHEDULER,
        "num_train_timesteps": base.num_train_timesteps,
        "beta_schedule": "scaled_linear",
        "beta_start": base.beta_start,
        "beta_end": base.beta_end,
        "prediction_type": base.prediction_type,
        "rescale_betas_zero_snr": base.zero_terminal_snr,
        "steps_offset": 1,
        "timestep_spacing": "trailing"
        if base.zero_terminal_snr
        else "leading",  # the others never begin at pure noise
    }
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8")) | {
        "scheduler": ["diffusers", SCHEDULER]
    }
    artifacts.write_json(folder / "scheduler" / "scheduler_config.json", config)
    artifacts.write_json(folder / "model_index.json", index)


def _copy_weights(source: Base, component: str, folder: Path) -> None:
    """Copy the weights of ``component`` as they lie in ``source.folder``; BaseError where they are missing or cut off."""
    source.check_weights(component)
    for file in source.weight_files(component):
        shutil.copy(file, folder / component / file.name)


def _component(base: Base, component: str, path: Path, header: dict, configs: Path):
    """One component out of the file, in the file's own precision."""
    from safetensors import safe_open

    prefix = {"unet": UNET, "vae": VAE}.get(component) or base.family.single_file[component]
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in header if name.startswith(prefix)}
    dtype = next(
        tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()
    )  # position_ids are not
    options = {
        "config": str(configs),
        "subfolder": component,
        "local_files_only": True,
        "torch_dtype": dtype,
    }
    if (
        base.family.name == "sd15" and component == "text_encoder"
    ):  # older merges leave text_model. out
        inside = f"{prefix}text_model."
        tensors = {
            name if name.startswith(inside) else inside + name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
        }
    try:
        if component in CLASS_NAMES:
            return models.class_of(base, component).from_single_file(tensors, **options)
        model = diffusers.clip_from_single_file(
            models.class_of(base, component), tensors, **options
        )
        if lost := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
            raise KeyError(f"{len(lost)} tensors are missing, such as {lost[0]}")
        return model
    except (ValueError, KeyError, RuntimeError) as error:
        raise BaseError(
            f"{path} does not hold the {component} of {base.title} ({str(error).splitlines()[0]}): give a checkpoint of SD 1.5 or SDXL."
        ) from error
