"""A checkpoint in one file, in the original layout -> a diffusers folder, once; one component at a time."""

import gc
import hashlib
import shutil
from pathlib import Path

from . import artifacts, models
from .bases import Base
from .bases.base import header_length, read_header
from .bases.files import PREFIXES, UNET
from .errors import BaseError, ResourceError
from .quiet import quiet

CLASS_NAMES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def place(base: Base, root: Path) -> Path:
    """Where below ``root`` the converted ``base.checkpoint`` lies: another file at the same path has another place."""
    path = base.checkpoint.resolve()
    facts = path.stat()
    return root / f"{path.stem}-{hashlib.sha256(f'{path}:{facts.st_size}:{facts.st_mtime_ns}'.encode()).hexdigest()[:12]}"


def convert(base: Base, configs: Path, target: Path) -> None:
    """Write ``base.checkpoint`` as a diffusers folder at ``target``, whole or not at all.

    Args:
        configs: A folder with the configs and tokenizers of what the checkpoint is built on.

    Raises:
        BaseError: The file is cut off, or holds other weights than the configs describe.
        ResourceError: The disk is too small.
    """
    path = base.checkpoint
    header = read_header(path)
    expected = header_length(path) + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    size = path.stat().st_size
    if size != expected:
        raise BaseError(f"{path} is {size} bytes long where its header asks for {expected}: it is cut off, get it again.")
    if missing := artifacts.free_space_needed(target, size):
        raise ResourceError(f"The disk of {target} lacks {missing / 1e6:,.0f} MB for {path.name} as a diffusers folder: free some space or set STORYBOARD_CACHE to another disk.")
    print(f"base: reading {path} ({size / 1e9:.1f} GB) into {target}", flush=True)
    with artifacts.building(target) as folder:
        for file in configs.rglob("*"):
            if file.is_file() and file.suffix in {".json", ".txt"} and "safetensors" not in file.name:
                (folder / file.relative_to(configs)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / file.relative_to(configs))
        for component in base.components:
            with quiet():
                _component(base, component, path, header, configs).save_pretrained(folder / component, safe_serialization=True)
            gc.collect()


def _component(base: Base, component: str, path: Path, header: dict, configs: Path):
    """One component out of the file, in the file's own precision."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors import safe_open

    kind = "sdxl" if "text_encoder_2" in base.components else "sd15"
    prefix = {"unet": UNET, "vae": "first_stage_model."}.get(component) or PREFIXES[kind]["2" in component]
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in header if name.startswith(prefix)}
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())  # position_ids are not
    options = {"config": str(configs), "subfolder": component, "local_files_only": True, "torch_dtype": dtype}
    if kind == "sd15" and component == "text_encoder":  # older merges leave text_model. out
        inside = f"{prefix}text_model."
        tensors = {name if name.startswith(inside) else inside + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    try:
        if component in CLASS_NAMES:
            return models.class_of(base, component).from_single_file(tensors, **options)
        model = create_diffusers_clip_model_from_ldm(models.class_of(base, component), tensors, **options)
        if lost := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
            raise KeyError(f"{len(lost)} tensors are missing, such as {lost[0]}")
        return model
    except (ValueError, KeyError, RuntimeError) as error:
        raise BaseError(f"{path} does not hold the {component} of {base.title} ({str(error).splitlines()[0]}): give a checkpoint of SD 1.5 or SDXL.") from error
