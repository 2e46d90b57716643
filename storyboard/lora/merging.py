"""The LoRA added to its base for good: a diffusers folder that needs no LoRA any more."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from storyboard import artifacts
from storyboard.errors import LoraError, ResourceError, one_line
from storyboard.lora import attaching, reading
from storyboard.lora.file import Lora, path_of
from storyboard.lora.names import CLIP_MODEL, UNPREFIXED
from storyboard.models import loading as models
from storyboard.models import weights
from storyboard.models.base import Base
from storyboard.models.run import check
from storyboard.models.safetensors_header import read_header
from storyboard.settings import Settings

STAGE = "merge"  # in its manifest
COPIED = {".json", ".txt", ".model"}  # configs, vocabularies


def merge(lora: Lora | Path | str, settings: Settings, target: Path | str | None = None) -> Path:
    """Write ``settings.base`` with ``lora`` in its weights as a diffusers folder.

    By default that is ``<output>/merged``. It opens in diffusers, and here as ``base="<folder>"``
    with ``lora=None``. Sums are made in fp32 and kept in the base's own precision.

    Raises:
        LoraError: The LoRA is missing, belongs to another base or does not attach whole, a sum is
            not finite, or something else lies at ``target``.
        ResourceError: The disk is too small.
    """
    path = path_of(lora)
    reading.check_file(path)
    base = weights.fetch(check(settings))
    target = settings.folder / "merged" if target is None else Path(target).expanduser()
    _check_target(base, target)
    _refuse_full_disk(base, target)

    merged = _merged(base, path)
    with artifacts.building(target) as folder:
        for file in _copied_files(base, merged):
            copy = folder / file.relative_to(base.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        for component, tensors in merged.items():
            name = _weight_file(base, component)
            save_file(tensors, folder / component / name, metadata={"format": "pt"})
        digest = artifacts.digest_of_file(path)
        fingerprint = artifacts.fingerprint(stage=STAGE, base=base.name, lora=digest)
        artifacts.write_manifest(folder, STAGE, fingerprint, base=base.name, lora=digest)
    print(f"lora: {one_line(path)} merged into {base.name!r} in {one_line(target)}")
    return target


def _check_target(base: Base, target: Path) -> None:
    """Raise LoraError where something lies at ``target`` that ``merge`` did not write."""
    if target.is_dir() and not any(target.iterdir()):
        return
    manifest = artifacts.read_manifest(target)
    of_merge = manifest is not None and manifest.get("stage") == STAGE
    if target.resolve() == base.root.resolve():
        raise LoraError(f"target={str(target)!r} is the base itself: name another folder.")
    if target.exists() and not of_merge:
        kind = "a folder" if target.is_dir() else "a file"
        raise LoraError(
            f"target={str(target)!r} is {kind} that merge did not write: "
            "name another one, or move it away."
        )


def _weight_files(base: Base) -> set[Path]:
    return {file for component in base.components for file in base.weight_files(component)}


def _refuse_full_disk(base: Base, target: Path) -> None:
    size = sum(file.stat().st_size for file in _weight_files(base))
    missing = artifacts.free_space_needed(target, size)
    if missing:
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for the merged base: "
            "free some space or name a target on another disk."
        )


def _copied_files(base: Base, merged: dict[str, dict[str, torch.Tensor]]) -> set[Path]:
    """Files that go along as they are: other weights, configs, vocabularies, licence."""
    changed = {file for component in merged for file in base.weight_files(component)}
    files = _weight_files(base) - changed
    for pattern in ("*", "[!.]*/*"):
        for file in base.root.glob(pattern):
            wanted = file.suffix in COPIED or file.name.startswith("LICENSE")
            of_shards = file.parent.name in merged and ".index." in file.name
            wanted = wanted and file.name != artifacts.MANIFEST
            if file.is_file() and wanted and not of_shards:
                files.add(file)
    return files


def _weight_file(base: Base, component: str) -> str:
    """The name that diffusers and transformers look for, in the variant of the base."""
    stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
    variant = base.variant(component)
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _merged(base: Base, lora: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every component that the LoRA changes, in the base's own precision."""
    changed = reading.read_kohya(lora, base.family, values=False).components
    components = sorted(changed & set(base.components))
    parts = {component: models.load(base, component, torch.float32) for component in components}
    attaching.attach(models.pipeline(base, **parts), base, lora)
    merged = {component: _tensors(base, component, part) for component, part in parts.items()}
    _refuse_broken(base, lora, merged)
    return merged


def _tensors(base: Base, component: str, part: torch.nn.Module) -> dict[str, torch.Tensor]:
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
    dtypes = [models.DTYPES[entry["dtype"]] for entry in header.values()]
    dtype = next(dtype for dtype in dtypes if dtype.is_floating_point)
    prefixed = component.startswith("text_encoder") and any(
        name.startswith(f"{CLIP_MODEL}.") for name in header
    )
    prefix = f"{CLIP_MODEL}." if prefixed else ""

    tensors = {}
    for key, tensor in part.state_dict().items():
        if ".lora_" in key:
            continue
        name = key.replace(".base_layer.", ".")
        whole = name.startswith((prefix, f"{UNPREFIXED}."))
        tensors[name if whole else prefix + name] = tensor.to(dtype).contiguous()
    return tensors


def _refuse_broken(base: Base, lora: Path, merged: dict[str, dict[str, torch.Tensor]]) -> None:
    """Raise LoraError where a sum is not finite in the precision of the base."""
    for component, tensors in merged.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise LoraError(
                    f"{component}'s {name} of {base.name!r} is not finite with {lora} in it: "
                    "get the LoRA and the base again, or give an earlier checkpoint of it."
                )
