"""The LoRA added to its base for good: a diffusers folder that needs no LoRA any more."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .. import artifacts, bases, models, weights
from ..bases.base import read_header
from ..errors import LoraError, ResourceError
from ..lora import Lora
from ..quiet import quiet
from ..rendering import drawing
from ..settings import Settings

COPIED = {".json", ".txt", ".model"}  # configs, vocabularies


def merge(lora: Lora | Path | str, settings: Settings, target: Path | str | None = None) -> Path:
    """Write ``settings.base`` with ``lora`` in its weights as a diffusers folder, by default ``<output>/merged``; returns it.

    It opens in diffusers, and here as ``base="<folder>"`` with ``lora=None``. Sums are made in fp32 and kept in the base's own precision.

    Raises:
        LoraError: The LoRA is missing, belongs to another base or does not attach whole.
        ResourceError: The disk is too small.
    """
    base = weights.fetch(bases.get(settings.base))
    path = lora.path if isinstance(lora, Lora) else Path(lora)
    if not path.is_file():
        raise LoraError(f"There is no LoRA at {path}: run the training cell again, or give the path of a lora.safetensors.")
    target = settings.folder / "merged" if target is None else Path(target)
    files = {file for component in base.components for file in base.weight_files(component)}
    if missing := artifacts.free_space_needed(target, sum(file.stat().st_size for file in files)):
        raise ResourceError(f"The disk of {target} lacks {missing / 1e6:,.0f} MB for the merged base: free some space or name a target on another disk.")
    unet = _merged(base, path)
    dtype = models.DTYPES[next(iter(read_header(base.weight_files("unet")[0]).values()))["dtype"]]
    files -= set(base.weight_files("unet"))
    files |= {file for pattern in ("*", "[!.]*/*") for file in base.folder.glob(pattern) if file.is_file() and (file.suffix in COPIED or file.name.startswith("LICENSE"))}
    with artifacts.building(target) as folder:
        for file in files:
            if file.parent.name == "unet" and ".index." in file.name:
                continue  # of the shards that are now one file
            place = folder / file.relative_to(base.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        name = ".".join(["diffusion_pytorch_model", *filter(None, [base.variant("unet")]), "safetensors"])
        save_file({key: tensor.to(dtype).contiguous() for key, tensor in unet.state_dict().items()}, folder / "unet" / name, metadata={"format": "pt"})
    print(f"lora: {path} merged into {base.name!r} in {target}")
    return target


def _merged(base: bases.Base, lora: Path) -> torch.nn.Module:
    pipe = models.pipeline(base, unet=models.load(base, "unet", torch.float32))
    with quiet():
        drawing.attach(pipe, base, lora)
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    return pipe.unet
