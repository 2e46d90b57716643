"""DiffSynth-Studio: its registry of models, which has no Kolors, and its prints."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from storyboard.compat import guard

PACKAGE = "diffsynth"
ENTRY = {"model_hash", "model_name", "model_class"}  # of MODEL_CONFIGS


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, nothing is printed: DiffSynth prints paths and configs of what it loads."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def registered(
    name: str, files: Sequence[Path], model_class: str, arguments: Mapping[str, object]
) -> Iterator[None]:
    """Inside, DiffSynth's pool loads ``files`` as ``model_class(**arguments)``, named ``name``.

    ``MODEL_CONFIGS`` is as before afterwards.

    Args:
        model_class: Its module's full name and its own.
    """
    from diffsynth.configs import MODEL_CONFIGS
    from diffsynth.core import hash_model_file
    from diffsynth.models import model_loader

    guard.require(PACKAGE, model_loader, "MODEL_CONFIGS", "ModelPool")
    guard.check(
        PACKAGE,
        model_loader.MODEL_CONFIGS is MODEL_CONFIGS
        and isinstance(MODEL_CONFIGS, list)
        and all(entry.keys() >= ENTRY for entry in MODEL_CONFIGS),
        "MODEL_CONFIGS is no longer the list of dictionaries that its pool reads",
    )
    model_hash = hash_model_file([str(path) for path in files])
    ours = {
        "model_hash": model_hash,
        "model_name": name,
        "model_class": model_class,
        "extra_kwargs": dict(arguments),
    }

    before = list(MODEL_CONFIGS)
    # the pool loads a file once for every entry that has its hash
    MODEL_CONFIGS[:] = [entry for entry in before if entry["model_hash"] != model_hash] + [ours]
    try:
        yield
    finally:
        MODEL_CONFIGS[:] = before
