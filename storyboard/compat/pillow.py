"""Pillow's switches that belong to the whole process, and its plugins."""

import contextlib
import importlib
import threading
import warnings
from collections.abc import Iterator

from PIL import ImageFile


class _Switches:
    """What threads ask of Pillow at the moment, and how it was before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.allowed: dict[object, bool] = {}  # by who asks; the last one holds
        self.before = False
        self.quiet = 0
        self.filters = warnings.catch_warnings()


_switches = _Switches()


@contextlib.contextmanager
def truncated_images(allowed: bool) -> Iterator[None]:
    """Inside, a truncated file is read with its missing part grey (``allowed``) or is an error.

    ``ImageFile.LOAD_TRUNCATED_IMAGES`` is as before when the last of all threads is outside.
    """
    asker = object()
    with _switches.lock:
        if not _switches.allowed:
            _switches.before = ImageFile.LOAD_TRUNCATED_IMAGES
        _switches.allowed[asker] = ImageFile.LOAD_TRUNCATED_IMAGES = allowed
    try:
        yield
    finally:
        with _switches.lock:
            del _switches.allowed[asker]
            last = next(reversed(_switches.allowed.values()), _switches.before)
            ImageFile.LOAD_TRUNCATED_IMAGES = last


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Inside, a truncated file is an error, and Pillow shows no warnings.

    Warning filters are as before when the last of all threads is outside.
    """
    with _switches.lock:
        if not _switches.quiet:
            _switches.filters = warnings.catch_warnings()
            _switches.filters.__enter__()
            warnings.filterwarnings("ignore", module="PIL")
        _switches.quiet += 1
    try:
        with truncated_images(allowed=False):
            yield
    finally:
        with _switches.lock:
            _switches.quiet -= 1
            if not _switches.quiet:
                _switches.filters.__exit__(None, None, None)


def register(module: str, function: str | None) -> None:
    """Import a package that adds a format to Pillow, and call its function that does so."""
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()
