"""The library ``packaging`` before anything is installed: nearly every host has it, and pip a copy.

It is loaded by its path, under a name of its own: imported by its own, it would be a version in the
kernel that an installation may replace.

The copy of an older pip imports ``pip``. Where that is looked for, ``_distutils_hack`` of
setuptools 65, which Python 3.11 makes environments with, switches setuptools' ``distutils`` off in
the process, and triton cannot be imported any more; so its finder is set aside meanwhile.
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

NAME = "storyboard_packaging"
COPIES = {"packaging": "packaging", "pip": "pip/_vendor/packaging"}  # package -> folder


def is_here() -> bool:
    """Whether ``packaging`` or pip is installed."""
    return _folder() is not None


def part(name: str) -> ModuleType:
    """``packaging.<name>``: ``requirements``, ``utils`` and the like.

    Raises:
        ModuleNotFoundError: Neither ``packaging`` nor pip is installed.
    """
    with _distutils_kept():
        if NAME not in sys.modules:
            _load()
        return importlib.import_module(f"{NAME}.{name}")


def _load() -> None:
    folder = _folder()
    if folder is None:
        raise ModuleNotFoundError("Neither packaging nor pip is installed.")
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _folder() -> Path | None:
    for package, path in COPIES.items():
        try:
            folder = Path(str(metadata.distribution(package).locate_file(path)))
        except metadata.PackageNotFoundError:
            continue
        if (folder / "__init__.py").is_file():
            return folder
    return None


@contextlib.contextmanager
def _distutils_kept() -> Iterator[None]:
    finders = list(sys.meta_path)
    sys.meta_path[:] = [each for each in finders if type(each).__name__ != "DistutilsMetaFinder"]
    try:
        yield
    finally:
        sys.meta_path[:] = finders
