"""LoRA files on disk: their tensors and metadata, and what they change."""

from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises at what is no tensor

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from storyboard.errors import LoraError
from storyboard.lora import forms, recognition
from storyboard.lora.forms.registry import Metadata, Tensors
from storyboard.lora.state import LoraState
from storyboard.models.families import Family


def read_kohya(path: Path, family: Family | None = None, values: bool = True) -> LoraState:
    """The LoRA in a file of kohya's form, the only one that is attached to a base.

    Args:
        values: Read the tensors, too; without, only the header is read, and they are on the meta
            device.

    Raises:
        LoraError: It is no safetensors file, no LoRA in kohya's form, one of another kind, or
            modules lack a half.
    """
    tensors, metadata = header(path)
    recognition.refuse_other_architectures(
        path, tensors, family or recognition.family_of(tensors, metadata)
    )
    foreign = [key for key in tensors if not _is_kohya(key)]
    if foreign:
        recognition.refuse_kinds(path, foreign, tensors)
        if len(foreign) == len(tensors):
            raise LoraError(
                f"{path} holds no LoRA in kohya's form: bring it in with import_lora, "
                "or give the lora.safetensors that training wrote."
            )
        raise LoraError(
            f"{path} holds {len(foreign)} tensors beside its LoRA (such as {min(foreign)}), "
            f"which would be left out: {recognition.PLAIN}."
        )
    return forms.read(path, load_file(path) if values else tensors, metadata, family)


def header(path: Path) -> tuple[Tensors, Metadata]:
    """Tensors of a safetensors file without their values, and its metadata.

    Raises:
        LoraError: It is no safetensors file, or not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise LoraError(
            f"{path} is not a whole safetensors file ({error}): "
            "train it again or give another file."
        ) from error
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, metadata


def content(path: Path) -> tuple[Tensors, Metadata]:
    """Tensors and metadata of a safetensors file or of a ``.ckpt``, whatever it is called.

    Raises:
        LoraError: There is no such file, or it holds no tensors, or more than tensors.
    """
    if not path.is_file():
        raise LoraError(
            f"There is no LoRA at {path}: give the path of a .safetensors or .ckpt file."
        )
    with path.open("rb") as file:
        start = file.read(64)
    _refuse_text(path, start)

    safe = path.suffix.lower() == ".safetensors" or start[8:9] == b"{"
    tensors = _loaded(path, safe)
    if isinstance(tensors, dict):
        tensors = _of_checkpoint(path, tensors)
    whole = isinstance(tensors, dict) and all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    )
    if not whole or not tensors:
        raise LoraError(f"{path} holds no LoRA: give the file that training wrote.")
    return tensors, header(path)[1] if safe else {}


def _is_kohya(key: str) -> bool:
    form = forms.form_of(key)
    return form is not None and form.name == "kohya"


def _refuse_text(path: Path, start: bytes) -> None:
    """Raise LoraError where a file begins as one that a hub sends in place of a LoRA."""
    if start.startswith(b"version https://git-lfs"):
        raise LoraError(
            f"{path} is a Git LFS pointer, not the file itself: get it with git lfs pull, "
            "or download it from the page of the repository."
        )
    if start.lstrip().startswith(b"<"):
        raise LoraError(
            f"{path} is a web page, not a LoRA: "
            "download it again, signed in where the site asks for it."
        )


def _loaded(path: Path, safe: bool) -> object:
    """What ``path`` holds; from a pickle nothing but tensors and plain containers is read."""
    try:
        return load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise LoraError(
            f"{path} holds more than tensors, which is not read for safety: "
            "convert it to safetensors where it was made."
        ) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise LoraError(
            f"{path} is not a whole LoRA file ({type(error).__name__}): get it again."
        ) from error


def _of_checkpoint(path: Path, content: dict) -> object:
    """The tensors of a ``.ckpt``, which may stand under ``state_dict`` beside plain values."""
    keys = [str(key) for key in content]
    unread = [
        key
        for key in keys
        if forms.form_of(key) is None and not recognition.EMBEDDED_WORD.fullmatch(key)
    ]
    recognition.refuse_kinds(path, unread, keys)
    inner = content.get("state_dict")
    if not isinstance(inner, dict):
        return content
    others = sorted(str(key) for key, value in content.items() if isinstance(value, torch.Tensor))
    if others:
        raise LoraError(
            f"{path} holds {len(others)} tensors beside its state_dict (such as {others[0]}), "
            f"which would be left out: {recognition.PLAIN}."
        )
    return inner
