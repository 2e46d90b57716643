"""Old checkpoints (``.ckpt``, ``.pt``, ``.bin``): pickles, of which only tensors are read."""

import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises at what is no tensor

import torch

from storyboard.errors import LoraError
from storyboard.lora import forms, recognition
from storyboard.lora.names import shown

INNER = ("state_dict", "module", "model", "lora", "weights")  # under which trainers put tensors


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, which may stand under ``state_dict`` or the like.

    Raises:
        LoraError: It holds more than tensors and plain values, or is not whole.
    """
    _refuse_packed(path)
    content = _loaded(path)
    if isinstance(content, dict):
        content = _inner(path, content)
    if not isinstance(content, dict):
        raise LoraError(
            f"{path} holds no LoRA but one {type(content).__name__}: "
            "give the file that training wrote."
        )
    odd = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd or not content:
        what = f"its {shown(str(odd[0]))} is no tensor" if odd else "it is empty"
        raise LoraError(f"{path} holds no LoRA, {what}: give the file that training wrote.")
    empty = [key for key, tensor in content.items() if tensor.is_meta or tensor.is_nested]
    if empty:
        raise LoraError(
            f"{path} holds {len(empty)} tensors without values of their own (such as "
            f"{shown(str(empty[0]))}): save them whole where they were made."
        )
    return {str(key): tensor.detach() for key, tensor in content.items()}


def _refuse_packed(path: Path) -> None:
    """Raise LoraError where a checkpoint is a zip that unpacks to more than it is.

    torch stores tensors as they are; a packed one can unpack to any size.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _not_whole(path, error) from error
    if unpacked > path.stat().st_size:
        raise LoraError(
            f"{path} is a packed archive, not a checkpoint that torch wrote: unpack it first."
        )


def _loaded(path: Path) -> object:
    """What ``path`` holds; from a pickle nothing but tensors and plain containers is read."""
    try:
        # of a path torch would go by the suffix; what it warns of is refused here
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise LoraError(
            f"{path} holds more than tensors, which is not read for safety, or is damaged: "
            "convert it to safetensors where it was made, or get it again."
        ) from error
    except Exception as error:  # at damaged bytes torch's unpickler raises anything at all
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> LoraError:
    return LoraError(f"{path} is not a whole LoRA file ({type(error).__name__}): get it again.")


def _inner(path: Path, content: dict) -> object:
    """The tensors of a checkpoint, which may stand a level deeper beside plain values."""
    keys = [str(key) for key in content]
    recognition.refuse_odd_names(path, keys)
    unread = [
        key
        for key in keys
        if forms.form_of(key) is None and not recognition.EMBEDDED_WORD.fullmatch(key)
    ]
    recognition.refuse_kinds(path, unread, keys)
    deeper = [name for name in INNER if isinstance(content.get(name), dict)]
    if not deeper:
        return content

    inner, name = content[deeper[0]], deeper[0]
    others = sorted(
        str(key)
        for key, value in content.items()
        if isinstance(value, torch.Tensor) or (key != name and key in deeper)
    )
    if others:
        raise LoraError(
            f"{path} holds {len(others)} tensors beside its {name} (such as {shown(others[0])}), "
            f"which would be left out: {recognition.PLAIN}."
        )
    return inner
