"""LoRA files on disk: their tensors and metadata, and what they change."""

import json
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from storyboard.errors import LoraError
from storyboard.lora import checkpoint, folders, forms, recognition
from storyboard.lora.forms.registry import Metadata, Tensors
from storyboard.lora.names import shown
from storyboard.lora.state import LoraState
from storyboard.models.families import Family

CHECKPOINTS = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # how a zip and a pickle begin
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
LENGTH_BYTES = 8  # of the number that a safetensors file begins with
LONGEST_HEADER = 100_000_000  # bytes, safetensors' own bound
FIRST_BYTES = 64


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
    recognition.refuse_odd_names(path, tensors)
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
            f"{path} holds {len(foreign)} tensors beside its LoRA (such as {shown(min(foreign))}), "
            f"which would be left out: {recognition.PLAIN}."
        )
    return forms.read(path, _values(path) if values else tensors, metadata, family)


def header(path: Path) -> tuple[Tensors, Metadata]:
    """Tensors of a safetensors file without their values, and its metadata.

    Raises:
        LoraError: It is no safetensors file, not whole, or holds other numbers than a LoRA.
    """
    if _is_checkpoint(check_file(path)):
        raise LoraError(
            f"{path} is an old checkpoint, not a whole safetensors file: "
            "bring it in with import_lora."
        )
    try:
        _refuse_twice(path)
        with _utf8(path) as name, safe_open(name, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            found = {key: (each.get_shape(), each.get_dtype()) for key, each in slices.items()}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise LoraError(
            f"{path} is not a whole safetensors file ({shown(str(error))}): "
            "train it again or give another file."
        ) from error
    other = {key: dtype for key, (_, dtype) in found.items() if dtype not in DTYPES}
    if other:
        _refuse_numbers(path, other)
    tensors = {
        key: torch.empty(shape, dtype=DTYPES[dtype], device="meta")
        for key, (shape, dtype) in found.items()
    }
    _check_numbers(path, tensors)
    return tensors, metadata


def _refuse_twice(path: Path) -> None:
    """Raise ValueError where a header names a tensor twice, of which a library takes the last."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length <= min(path.stat().st_size, LONGEST_HEADER):
            json.loads(file.read(length), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{twice} stands in its header twice")


def content(path: Path) -> tuple[Tensors, Metadata]:
    """Tensors and metadata of a safetensors file or of a ``.ckpt``, whatever it is called.

    A folder is peft's or diffusers'; peft's file is read with the configuration beside it.

    Raises:
        LoraError: There is no such file, or it holds no tensors, or more than tensors.
    """
    if folders.is_folder(path):
        return folders.read(path, _content)
    if folders.is_adapter(path):
        return folders.read(path.parent, _content)
    return _content(path)


def check_file(path: Path) -> bytes:
    """The first bytes of a file; LoraError where there is none, or another kind of file."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                start = file.read(FIRST_BYTES)
    except (OSError, ValueError) as error:
        reason = (
            "its link leads nowhere: "
            if isinstance(error, FileNotFoundError) and path.is_symlink()
            else ""
        )
        denied = isinstance(error, PermissionError)
        raise LoraError(
            f"{path} must not be read by this user: change its permissions."
            if denied
            else f"There is no LoRA at {path}: {reason}"
            "give the path of a .safetensors or .ckpt file."
        ) from error
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise LoraError(
            f"There is no LoRA at {path} but a {kind}: "
            "give the path of a .safetensors or .ckpt file."
        )
    _refuse_text(path, start)
    return start


def _is_safe(start: bytes) -> bool:
    """Whether a file begins as safetensors do: a length, then JSON."""
    return start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def _is_checkpoint(start: bytes) -> bool:
    """Whether a file begins as a zip or a pickle, and not as safetensors of such a length."""
    return start.startswith(CHECKPOINTS) and not _is_safe(start)


def _content(path: Path) -> tuple[Tensors, Metadata]:
    start = check_file(path)
    named_so = path.suffix.lower() == ".safetensors"
    if _is_safe(start) or (named_so and not _is_checkpoint(start)):
        tensors, metadata = header(path)
        names = [key for key in tensors if not recognition.EMBEDDED_WORD.fullmatch(key)]
        if names:  # before the values of something else, of any size, are read
            forms.recognised(path, names, recognition.family_of(names, metadata))
        tensors = _values(path) if tensors else tensors
    else:
        tensors, metadata = checkpoint.read(path), {}
    if not tensors:
        raise LoraError(f"{path} holds no LoRA, it is empty: give the file that training wrote.")
    _check_numbers(path, tensors)
    return tensors, metadata


@contextmanager
def _utf8(path: Path) -> Iterator[Path]:
    """``path``, or a link to it where its name is no UTF-8, which safetensors does not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "lora.safetensors"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def _values(path: Path) -> Tensors:
    try:
        with _utf8(path) as name:
            return load_file(name)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise LoraError(
            f"{path} is not a whole LoRA file ({type(error).__name__}): get it again."
        ) from error


def _is_kohya(key: str) -> bool:
    form = forms.form_of(key)
    return form is not None and form.name == "kohya"


def _refuse_text(path: Path, start: bytes) -> None:
    """Raise LoraError where a file begins as one that a hub sends in place of a LoRA."""
    if not start:
        raise LoraError(f"{path} is an empty file: get it again.")
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


def _check_numbers(path: Path, tensors: Tensors) -> None:
    """Raise LoraError where a tensor is not dense, or not of real floating point numbers.

    An alpha may be a whole number.
    """
    odd = {}
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            odd[key] = "sparse" if tensor.layout != torch.strided else "quantised"
        elif not tensor.is_floating_point() and (
            not key.endswith("alpha") or tensor.is_complex() or tensor.dtype == torch.bool
        ):
            odd[key] = str(tensor.dtype).removeprefix("torch.")
        elif not tensor.is_meta and tensor.untyped_storage().nbytes() < tensor.nbytes:
            odd[key] = "larger than its data"
    if odd:
        _refuse_numbers(path, odd)


def _refuse_numbers(path: Path, odd: Mapping[str, str]) -> None:
    key = min(odd)
    raise LoraError(
        f"{path} holds {len(odd)} tensors that are not dense floating point numbers (such as "
        f"{shown(key)}, which is {odd[key]}): save it in float16 or float32 where it was made."
    )
