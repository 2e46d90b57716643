"""Advice and progress bars of libraries, kept out of the reader's notebook."""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator

from storyboard.compat import guard

LIBRARIES = ("diffusers", "transformers")
CLIENTS = ("modelscope_hub.api", "modelscope.hub.api", "huggingface_hub.hf_api")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, diffusers and transformers show errors, but no progress bars, warnings or advice.

    Warning filters, log levels and progress bars are as before afterwards, those of huggingface_hub
    included, which transformers switches together with its own.
    """
    with warnings.catch_warnings(), _hub_bars_kept():
        warnings.simplefilter("ignore")
        with contextlib.ExitStack() as stack:
            for name in LIBRARIES:
                stack.enter_context(_silenced(name))
            yield


@contextlib.contextmanager
def quiet_hubs() -> Iterator[None]:
    """Inside, the hubs' clients print nothing: no bars, reports or log lines.

    What they do is then said in one line by who calls them.
    """
    # imported now: what they log to later is the stderr of their import
    for name in CLIENTS:
        importlib.import_module(name)
    loggers = [logging.getLogger(name.partition(".")[0]) for name in CLIENTS]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    library = _logging_of(name)
    bars = library.is_progress_bar_enabled()
    library.get_verbosity()  # configures the library's logger if nothing has done so yet
    logger = logging.getLogger(name)
    level = logger.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            library.enable_progress_bar()


def _logging_of(name: str):
    import diffusers.utils.logging
    import transformers.utils.logging

    library = {"diffusers": diffusers, "transformers": transformers}[name].utils.logging
    guard.require(
        name,
        library,
        "get_verbosity",
        "set_verbosity_error",
        "is_progress_bar_enabled",
        "enable_progress_bar",
        "disable_progress_bar",
    )
    return library


@contextlib.contextmanager
def _hub_bars_kept() -> Iterator[None]:
    """huggingface_hub's progress bars, by groups, as they are now when this is closed."""
    module = importlib.import_module("huggingface_hub.utils.tqdm")
    guard.require("huggingface_hub", module, "progress_bar_states")
    before = dict(module.progress_bar_states)
    try:
        yield
    finally:
        module.progress_bar_states.clear()
        module.progress_bar_states.update(before)
