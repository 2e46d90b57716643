"""What can be fine-tuned: one file a base, found by its name. Adding a base is adding a file."""

import pkgutil
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

from ..errors import SettingsError
from .base import Base
from .files import KOLORS_ORIGINAL, opened, refuse_original_kolors

ROOM_FOR_KOLORS = 10 * 2**30  # bytes of the card
__all__ = ["Base", "get", "names"]


@cache
def names() -> tuple[str, ...]:
    """Names of all bases, sorted."""
    return tuple(
        sorted(
            module.name
            for module in pkgutil.iter_modules(__path__)
            if module.name not in ("base", "files")
        )
    )


def default() -> str:
    """``"kolors"`` where a CUDA card has room for it, ``"mini"`` elsewhere."""
    if not shutil.which("nvidia-smi") and not Path("/proc/driver/nvidia").exists():
        return "mini"  # without importing torch, which takes seconds
    import torch

    return (
        "kolors"
        if torch.cuda.is_available() and torch.cuda.mem_get_info()[1] >= ROOM_FOR_KOLORS
        else "mini"
    )


def get(name: str) -> Base:
    """The base called ``name``, or the one at the path ``name``: a diffusers folder or a ``.safetensors`` file.

    Raises:
        SettingsError: There is none; says which there are.
        BaseError: What lies at the path cannot be fine-tuned here.
    """
    if name in names():
        return import_module(f"{__name__}.{name}").BASE
    if Path(name).expanduser().exists():
        return opened(Path(name).expanduser(), {known: get(known) for known in names()})
    if name == KOLORS_ORIGINAL:
        refuse_original_kolors(name)
    raise SettingsError(
        f"There is no base called {name!r}: set base to one of {', '.join(map(repr, names()))}, or to the path of a diffusers folder or a .safetensors file."
    )
