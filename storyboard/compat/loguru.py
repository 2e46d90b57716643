"""loguru's one logger, which all libraries of a process share, its sinks included."""

import contextlib
from collections.abc import Iterator

from storyboard.compat import guard


@contextlib.contextmanager
def sinks_kept() -> Iterator[None]:
    """Inside, ``logger.remove`` and ``logger.add`` do nothing: sinks stay those that the user has.

    Needed while a library is imported that configures the logger at import. A sink that is removed
    is closed and cannot be put back.
    """
    from loguru import logger

    guard.require("loguru", logger, "add", "remove")
    vars(logger).update(add=_do_nothing, remove=_do_nothing)
    try:
        yield
    finally:
        del logger.add, logger.remove  # the class's methods are visible again


def _do_nothing(*_arguments, **_named) -> int:
    return 0


@contextlib.contextmanager
def silenced(package: str) -> Iterator[None]:
    """Inside, what modules of ``package`` log is dropped; all other messages reach their sinks."""
    from loguru import logger

    guard.require("loguru", logger, "_core")
    core = vars(logger)["_core"]
    guard.require("loguru", core, "lock", "activation_list", "enabled")
    with core.lock:
        before = (list(core.activation_list), dict(core.enabled))
    logger.disable(package)
    try:
        yield
    finally:
        with core.lock:
            core.activation_list, core.enabled = before
