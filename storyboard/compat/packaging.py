"""The library ``packaging``, which is there before anything is installed: pip carries a copy.

pip's copy comes first: importing ``packaging`` itself would hold a version in the kernel that an
installation then replaces.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def is_here() -> bool:
    """Whether pip or ``packaging`` itself is installed."""
    return any(map(find_spec, ("pip", "packaging")))


def part(name: str) -> ModuleType:
    """``packaging.<name>``: ``requirements``, ``utils`` and the like.

    Raises:
        ModuleNotFoundError: Neither pip nor ``packaging`` is installed.
    """
    try:
        return import_module(f"pip._vendor.packaging.{name}")
    except ModuleNotFoundError:
        return import_module(f"packaging.{name}")
