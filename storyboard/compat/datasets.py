"""Flags of datasets and huggingface_hub that hold for the whole process."""

import contextlib
from collections.abc import Iterator
from typing import Any

from storyboard.compat import guard


@contextlib.contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Inside, datasets shows no progress bars; afterwards it does if it did before."""
    import datasets

    hidden_before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden_before:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Inside, nothing is asked of Hugging Face's hub: loading a local file is counted there else.

    The environment's HF_HUB_OFFLINE is read once at import, so the flags are set where they are.
    """
    import datasets.config
    import huggingface_hub.constants

    holders: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    for package, holder in zip(("datasets", "huggingface-hub"), holders, strict=True):
        guard.require(package, holder, "HF_HUB_OFFLINE")
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = True
        yield
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value
