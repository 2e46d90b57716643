"""The header of a safetensors file, which says all but the numbers.

The format is https://github.com/huggingface/safetensors#format: eight bytes with the length of the
header, the header as JSON, the tensors.
"""

import json
from pathlib import Path

from storyboard.errors import BaseError

LENGTH_BYTES = 8
LONGEST_HEADER = 100 * 2**20  # the library's own limit


def header_length(path: Path) -> int:
    """Bytes before the first tensor of the file.

    Raises:
        BaseError: It is no safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")

    longest = min(LONGEST_HEADER, max(path.stat().st_size - LENGTH_BYTES, 0))
    if not 2 <= length <= longest:
        raise BaseError(
            f"{path} is not a safetensors file: its header would be {length} bytes long; "
            "get it again."
        )
    return LENGTH_BYTES + length


def read_header(path: Path) -> dict[str, dict]:
    """Tensor name -> its ``dtype``, ``shape`` and ``data_offsets``, which count from the header.

    Raises:
        BaseError: It is no safetensors file, or its header is damaged.
    """
    header = _read(path)
    header.pop("__metadata__", None)
    return header


def metadata(path: Path) -> dict[str, str]:
    """What else the header says.

    Raises:
        BaseError: It is no safetensors file, or its header is damaged.
    """
    return _read(path).get("__metadata__", {})


def check_length(path: Path) -> None:
    """Raise BaseError unless the file is as long as its header says."""
    ends = [entry["data_offsets"][1] for entry in read_header(path).values()]
    expected = header_length(path) + max(ends, default=0)
    size = path.stat().st_size
    if size != expected:
        raise BaseError(
            f"{path} is {size} bytes long where its header asks for {expected}: "
            "it is cut off, get it again."
        )


def _read(path: Path) -> dict:
    length = header_length(path)
    with path.open("rb") as file:
        file.seek(LENGTH_BYTES)
        try:
            return json.loads(file.read(length - LENGTH_BYTES))
        except ValueError as error:
            raise BaseError(f"{path} has a damaged header: get it again.") from error
