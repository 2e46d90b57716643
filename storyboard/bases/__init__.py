"""What can be fine-tuned: one file a base, found by its name. Adding a base is adding a file."""

import pkgutil
from functools import cache
from importlib import import_module

from ..errors import SettingsError
from .base import Base

__all__ = ["Base", "get", "names"]


@cache
def names() -> tuple[str, ...]:
    """Names of all bases, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"))


def get(name: str) -> Base:
    """The base called ``name``.

    Raises:
        SettingsError: There is none; says which there are.
    """
    if name not in names():
        raise SettingsError(f"There is no base called {name!r}: set base to one of {', '.join(map(repr, names()))}.")
    return import_module(f"{__name__}.{name}").BASE
