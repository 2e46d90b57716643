"""The LoRA added to its base for good: a diffusers folder that needs no LoRA any more."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from storyboard import artifacts
from storyboard.errors import LoraError, ResourceError
from storyboard.lora import attaching
from storyboard.lora.file import Lora, component_of, modules
from storyboard.models import bases, weights
from storyboard.models import loading as models
from storyboard.models.run import check
from storyboard.models.safetensors_header import read_header
from storyboard.settings import Settings

COPIED = {".json", ".txt", ".model"}  # configs, vocabularies


def merge(lora: Lora | Path | str, settings: Settings, target: Path | str | None = None) -> Path:
    """Write ``settings.base`` with ``lora`` in its weights as a diffusers folder, by default ``<output>/merged``.

    It opens in diffusers, and here as ``base="<folder>"`` with ``lora=None``. Sums are made in fp32 and kept in the base's own precision.

    Raises:
        LoraError: The LoRA is missing, belongs to another base or does not attach whole.
        ResourceError: The disk is too small.
    """
    base = weights.fetch(check(settings))
    path = lora.path if isinstance(lora, Lora) else Path(lora).expanduser()
    if not path.is_file():
        raise LoraError(
            f"There is no LoRA at {path}: run the training cell again, or give the path of a lora.safetensors."
        )
    target = settings.folder / "merged" if target is None else Path(target)
    files = {file for component in base.components for file in base.weight_files(component)}
    if missing := artifacts.free_space_needed(target, sum(file.stat().st_size for file in files)):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for the merged base: free some space or name a target on another disk."
        )
    merged = _merged(base, path)
    files -= {file for component in merged for file in base.weight_files(component)}
    files |= {
        file
        for pattern in ("*", "[!.]*/*")
        for file in base.folder.glob(pattern)
        if file.is_file() and (file.suffix in COPIED or file.name.startswith("LICENSE"))
    }
    with artifacts.building(target) as folder:
        for file in files:
            if file.parent.name in merged and ".index." in file.name:
                continue  # of the shards that are now one file
            place = folder / file.relative_to(base.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        for component, tensors in merged.items():
            stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
            name = ".".join([stem, *filter(None, [base.variant(component)]), "safetensors"])
            save_file(tensors, folder / component / name, metadata={"format": "pt"})
    print(f"lora: {path} merged into {base.name!r} in {target}")
    return target


def _merged(base: bases.Base, lora: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every component that the LoRA changes, in the base's own precision."""
    components = sorted({component_of(name) for name in modules(lora)} & set(base.components))
    pipe = models.pipeline(
        base, **{component: models.load(base, component, torch.float32) for component in components}
    )
    attaching.attach(pipe, base, lora)
    return {
        component: _tensors(base, component, getattr(pipe, component)) for component in components
    }


def _tensors(base: bases.Base, component: str, part: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of ``part`` with their LoRA; a text encoder's by the names in the base's file.

    Versions of transformers differ in whether those begin with ``text_model.``
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in part.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    header = {
        name: entry
        for file in base.weight_files(component)
        for name, entry in read_header(file).items()
    }
    dtype = next(
        dtype
        for entry in header.values()
        if (dtype := models.DTYPES[entry["dtype"]]).is_floating_point
    )
    prefixed = component.startswith("text_encoder") and any(
        name.startswith("text_model.") for name in header
    )
    prefix = "text_model." if prefixed else ""
    found = {}
    for name, tensor in part.state_dict().items():
        if ".lora_" not in name:
            name = name.replace(".base_layer.", ".")
            name = name if name.startswith((prefix, "text_projection.")) else prefix + name
            found[name] = tensor.to(dtype).contiguous()
    return found
