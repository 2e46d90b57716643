"""A checkpoint in one file, in the original layout -> a diffusers folder, once.

One component at a time, so that no more than the largest is in memory.
"""

import gc
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from storyboard import artifacts
from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.errors import BaseError, ResourceError, reason
from storyboard.models import configs as model_configs
from storyboard.models import loading
from storyboard.models.bases import Base
from storyboard.models.safetensors_header import read_header

SCHEDULER = "EulerDiscreteScheduler"  # unlike SD 1.5's PNDMScheduler it knows zero terminal SNR
CONFIG_FILES = {".json", ".txt"}


def converted_folder(base: Base, root: Path) -> Path:
    """Where below ``root`` the converted ``base.checkpoint`` lies.

    Another file at the same path has another folder.
    """
    path = base.checkpoint.resolve()
    facts = path.stat()
    identity = f"{path}:{facts.st_size}:{facts.st_mtime_ns}"
    return root / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def missing_components(base: Base) -> tuple[str, ...]:
    """What ``base.checkpoint`` takes from what it is built on: the VAE or nothing."""
    prefix = base.family.single_file.prefixes["vae"]
    has_vae = any(name.startswith(prefix) for name in read_header(base.checkpoint))
    return () if has_vae else ("vae",)


def convert(base: Base, configs: Path, target: Path) -> None:
    """Write ``base.checkpoint`` as a diffusers folder at ``target``, whole or not at all.

    Args:
        configs: A folder with the configs and tokenizers of what the checkpoint is built on, and
            the weights of the ``missing_components``.

    Raises:
        BaseError: The file is cut off, or holds other weights than the configs describe.
        ResourceError: The disk is too small.
    """
    path = base.checkpoint
    read_header(path)
    size = path.stat().st_size
    if missing := artifacts.free_space_needed(target, size):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for {path.name} as a diffusers "
            "folder: free some space or set STORYBOARD_CACHE to another disk."
        )

    print(f"base: reading {path} ({size / 1e9:.1f} GB) into {target}", flush=True)
    borrowed = missing_components(base)
    if borrowed:
        print(f"base: {path.name} holds no VAE, it takes that of {base.huggingface}", flush=True)

    with artifacts.building(target) as folder:
        _copy_configs(configs, folder)
        if base.prediction_type != "epsilon":
            _write_schedule(base, folder)

        for component in base.components:
            if component in borrowed:
                _copy_weights(replace(base, folder=configs), component, folder)
                continue
            with quiet():
                module = _component(base, component, configs)
                module.save_pretrained(folder / component, safe_serialization=True)
            del module
            gc.collect()


def _copy_configs(source: Path, folder: Path) -> None:
    for file in source.rglob("*"):
        is_config = file.suffix in CONFIG_FILES and "safetensors" not in file.name
        if file.is_file() and is_config:
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def _write_schedule(base: Base, folder: Path) -> None:
    """Write what the UNet predicts into ``folder``, so that diffusers, too, draws right from it."""
    # other spacings than trailing never begin at pure noise
    spacing = "trailing" if base.zero_terminal_snr else "leading"
    config = {
        "_class_name": SCHEDULER,
        "num_train_timesteps": base.num_train_timesteps,
        "beta_schedule": "scaled_linear",
        "beta_start": base.beta_start,
        "beta_end": base.beta_end,
        "prediction_type": base.prediction_type,
        "rescale_betas_zero_snr": base.zero_terminal_snr,
        "steps_offset": 1,
        "timestep_spacing": spacing,
    }
    index = model_configs.read(folder / "model_index.json")
    index["scheduler"] = ["diffusers", SCHEDULER]
    artifacts.write_json(folder / "scheduler" / "scheduler_config.json", config)
    artifacts.write_json(folder / "model_index.json", index)


def _copy_weights(source: Base, component: str, folder: Path) -> None:
    """Copy the weights of ``component`` as they lie in ``source.folder``.

    Raises:
        BaseError: They are missing or cut off.
    """
    source.check_component(component)
    for file in source.weight_files(component):
        shutil.copy(file, folder / component / file.name)


def _component(base: Base, component: str, configs: Path) -> torch.nn.Module:
    """One component out of the file, in the file's own precision.

    Raises:
        BaseError: The file holds other tensors than its config describes.
    """
    tensors = _tensors(base, component)
    # the first of all floats: position_ids are integers
    dtypes = [each.dtype for each in tensors.values() if each.is_floating_point()]
    if not dtypes:
        raise _not_held(base, component, "it holds no numbers of it")
    options = {
        "config": str(configs),
        "subfolder": component,
        "local_files_only": True,
        "torch_dtype": dtypes[0],
    }
    kind = loading.class_of(base, component)
    try:
        if hasattr(kind, "from_single_file"):  # diffusers' classes
            return kind.from_single_file(tensors, **options)
        return _clip(kind, tensors, options)
    except torch.OutOfMemoryError:  # a RuntimeError that is not about the file
        raise
    except Exception as error:  # the libraries raise whatever their own code meets
        raise _not_held(base, component, reason(error)) from error


def _not_held(base: Base, component: str, why: str) -> BaseError:
    return BaseError(
        f"{base.checkpoint} does not hold the {component} of {base.title} ({why}): "
        f"give a whole checkpoint of {base.family.title}."
    )


def _tensors(base: Base, component: str) -> dict[str, torch.Tensor]:
    """Tensors of ``component`` by their names in the file, with the part that older files lack."""
    layout = base.family.single_file
    prefix = layout.prefixes[component]
    with safe_open(base.checkpoint, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}

    whole_prefix = prefix + layout.left_out.get(component, "")
    return {
        name if name.startswith(whole_prefix) else whole_prefix + name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
    }


def _clip(kind: type, tensors: dict[str, torch.Tensor], options: dict) -> torch.nn.Module:
    """A text encoder of transformers; KeyError where tensors are missing."""
    model = diffusers.clip_from_single_file(kind, tensors, **options)
    absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if absent:
        raise KeyError(f"{len(absent)} tensors are missing, such as {absent[0]}")
    return model
