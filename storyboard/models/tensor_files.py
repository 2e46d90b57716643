"""Tensors in a safetensors file with a digest of their own, by which damage is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from storyboard import artifacts


class DamagedFile(Exception):
    """A file does not hold what was written; says why."""


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``tensors`` to ``path``, whole or not at all."""
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    artifacts.write_atomically(path, save(kept, metadata={"digest": _digest(kept)}))


def read(path: Path) -> dict[str, torch.Tensor]:
    """What ``write`` wrote to ``path``. A file of an earlier release has no digest to compare.

    Raises:
        FileNotFoundError: There is none.
        DamagedFile: It is cut off or changed.
    """
    content = path.read_bytes()
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as error:
        raise DamagedFile(str(error)) from error
    length = int.from_bytes(content[:8], "little")
    digest = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("digest")
    if digest not in (None, _digest(tensors)):
        raise DamagedFile("its digest is another")
    return tensors


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
