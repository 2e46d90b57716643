"""Names and shapes of tensors: what files hold, what modules expect, how libraries rename."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from storyboard.compat import diffusers, transformers
from storyboard.errors import BaseError, brief
from storyboard.models.weight_files import read_headers

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
    """Compare names, shapes and types in the headers of ``files`` with those of ``model``.

    Raises:
        BaseError: Tensors are missing, too many, of another shape or type; names the file and the
            first.
    """
    header = read_headers(list(files))
    location = files[0] if len(files) == 1 else files[0].parent
    names, expected = renamed(model, header), model.state_dict()
    for old, entry in header.items():
        if not _fits(entry["dtype"], expected.get(names.get(old))):
            raise BaseError(
                f"{location} holds numbers of the type {entry['dtype']} in {brief(old)}: "
                "get the weights in fp16, bf16 or fp32."
            )

    twice = [old for old in header if old not in names]  # another name of one that is there
    twice += [name for name, count in Counter(names.values()).items() if count > 1]
    shapes = {new: header[old]["shape"] for old, new in names.items()}
    wrong = [f"{name} is there twice" for name in twice] + differences(model, shapes)
    if wrong:
        raise BaseError(
            f"{location} does not hold the {type(model).__name__} that the config.json beside it "
            f"describes: {len(wrong)} of {len(expected)} tensors are missing or differ "
            f"({brief(wrong[0])[1:-1]}): get the weights and the config of the same model."
        )


def _fits(dtype: str, own: torch.Tensor | None) -> bool:
    """Whether numbers of the type ``dtype`` can be those of the module's tensor ``own``."""
    known = DTYPES.get(dtype)
    if known is None:
        return False
    return own is None or own.is_floating_point() == known.is_floating_point


def _is_computed(name: str) -> bool:
    return name.endswith(COMPUTED)


def _same_numbers(shape: list[int], expected: list[int]) -> bool:
    """Whether the shapes are the same, or (n, m) and (n, m, 1, 1).

    These are a linear layer and a convolution of one pixel, which hold the same numbers.
    """
    short, long = sorted([shape, expected], key=len)
    return short == long or (len(short) == 2 and long == [*short, 1, 1])
