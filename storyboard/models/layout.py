"""Names and shapes of tensors: what files hold, what modules expect, how libraries rename."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from storyboard.compat import diffusers, transformers
from storyboard.errors import BaseError
from storyboard.models.safetensors_header import read_header

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
# ends of the names of tensors that follow from the config; older files hold them
COMPUTED = ("position_ids", "inv_freq")


def renamed(model: torch.nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Names in a file -> names in ``model``, as the library of its class renames while loading.

    Such are attention in diffusers before 0.18 (``query`` is ``to_q`` today) and the prefixes of
    transformers before 5.
    """
    library = diffusers if diffusers.is_model(model) else transformers
    return library.renamed(model, names)


def differences(model: torch.nn.Module, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """What is wrong with tensors of these names and shapes for ``model``, a phrase for each.

    Those that are computed may be absent or too many.
    """
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = []
    for name, shape in expected.items():
        if name not in shapes:
            if not _is_computed(name):
                wrong.append(f"{name} should be {shape} and is absent")
        elif not _same_numbers(list(shapes[name]), shape):
            wrong.append(f"{name} should be {shape} and is {list(shapes[name])}")

    extra = [name for name in shapes if name not in expected and not _is_computed(name)]
    return wrong + [f"{name} has no place there" for name in extra]


def check(model: torch.nn.Module, files: Sequence[Path]) -> None:
    """Compare names and shapes in the headers of ``files`` with those of ``model``.

    Raises:
        BaseError: Tensors are missing, too many, of another shape or of an unknown type; names the
            file and the first.
    """
    shapes = {}
    for path in files:
        header = read_header(path)
        unknown = sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys())
        if unknown:
            raise BaseError(
                f"{path} holds numbers of the type {unknown[0]}: "
                "get the weights in fp16, bf16 or fp32."
            )
        names = renamed(model, header)
        shapes |= {names[old]: entry["shape"] for old, entry in header.items()}

    if wrong := differences(model, shapes):
        location = files[0] if len(files) == 1 else files[0].parent
        raise BaseError(
            f"{location} does not hold the {type(model).__name__} that the config.json beside it "
            f"describes: {len(wrong)} of {len(model.state_dict())} tensors are missing or differ "
            f"({wrong[0]}): get the weights and the config of the same model."
        )


def _is_computed(name: str) -> bool:
    return name.endswith(COMPUTED)


def _same_numbers(shape: list[int], expected: list[int]) -> bool:
    """Whether the shapes are the same, or (n, m) and (n, m, 1, 1).

    These are a linear layer and a convolution of one pixel, which hold the same numbers.
    """
    short, long = sorted([shape, expected], key=len)
    return short == long or (len(short) == 2 and long == [*short, 1, 1])
