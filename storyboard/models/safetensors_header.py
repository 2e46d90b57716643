"""The header of a safetensors file, which says all but the numbers.

The format is https://github.com/huggingface/safetensors#format: eight bytes with the length of the
header, the header as JSON, the tensors one after another without a gap. All of it is checked here,
before a library reads the file.
"""

import math
from pathlib import Path

from storyboard.errors import BaseError, brief
from storyboard.models.configs import parsed

LENGTH_BYTES = 8
LONGEST_HEADER = 32 * 2**20  # bytes; 3,000 tensors of SDXL in one file take 0.4 MB
MOST_DIMENSIONS = 8
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


def header_length(path: Path) -> int:
    """Bytes before the first tensor of the file.

    Raises:
        BaseError: It is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        longest = min(LONGEST_HEADER, max(path.stat().st_size - LENGTH_BYTES, 0))
    except OSError as error:
        raise BaseError(f"{path} cannot be read ({error.strerror}): get it again.") from error

    if not 2 <= length <= longest:
        raise BaseError(
            f"{path} is not a safetensors file: its header would be {length} bytes long; "
            "get it again."
        )
    return LENGTH_BYTES + length


def read_header(path: Path) -> dict[str, dict]:
    """Tensor name -> its ``dtype``, ``shape`` and ``data_offsets``, which count from the header.

    Raises:
        BaseError: It is no safetensors file, its header is damaged, or the file is of another
            length than that says.
    """
    header = _read(path)
    header.pop("__metadata__", None)
    end = _end(path, header)
    expected, size = header_length(path) + end, path.stat().st_size
    if size != expected:
        raise BaseError(
            f"{path} is {size} bytes long where its header asks for {expected}: "
            "it is cut off or not this file, get it again."
        )
    return header


def metadata(path: Path) -> dict[str, str]:
    """What else the header says.

    Raises:
        BaseError: It is no safetensors file, or its header is damaged.
    """
    facts = _read(path).get("__metadata__") or {}
    if not isinstance(facts, dict) or not all(isinstance(each, str) for each in facts.values()):
        raise _damaged(path, "its __metadata__ are no texts")
    return facts


def _read(path: Path) -> dict:
    length = header_length(path)
    with path.open("rb") as file:
        file.seek(LENGTH_BYTES)
        content = file.read(length - LENGTH_BYTES)
    try:
        return parsed(content)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _end(path: Path, header: dict[str, dict]) -> int:
    """Where the last tensor ends, in bytes from the header.

    Raises:
        BaseError: Tensors overlap, leave a gap or are of another length than their shape.
    """
    for name, entry in header.items():
        if wrong := _wrong(entry):
            raise _damaged(path, f"the tensor {brief(name)} {wrong}")

    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end:
            where = "overlaps the one before" if begin < end else "leaves a gap before it"
            raise _damaged(path, f"the tensor {brief(name)} {where}")
        end = stop
    return end


def _wrong(entry: object) -> str | None:
    """What is wrong with a tensor's entry, as the rest of a sentence."""
    if not isinstance(entry, dict):
        return "has no dtype, shape and data_offsets"
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"is of the unknown type {brief(dtype)}"
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        return f"has the shape {brief(shape)}"
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"has the data_offsets {brief(offsets)}"

    bits, held = math.prod(shape) * BITS[dtype], 8 * (offsets[1] - offsets[0])
    if bits != held:
        return f"takes {held // 8} bytes where {dtype} {shape} needs {bits // 8}"
    return None


def _sizes(values: object) -> bool:
    """Whether ``values`` is a list of whole numbers from 0."""
    return isinstance(values, list) and all(
        type(each) is int and 0 <= each < 2**63 for each in values
    )


def _damaged(path: Path, reason: str) -> BaseError:
    return BaseError(f"{path} has a damaged header ({reason}): get it again.")
