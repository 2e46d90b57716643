"""torch's switches for products of fp32 in fewer bits, and what its devices raise.

The switches belong to the whole process. A CUDA card's convolutions take TF32 by default: 10 bits
of mantissa where fp32 has 23.
"""

import contextlib
from collections.abc import Iterator

import torch

from storyboard.compat import guard


@contextlib.contextmanager
def true_fp32(dtype: torch.dtype) -> Iterator[None]:
    """Inside, convolutions and matrix products in fp32 are not rounded, if ``dtype`` is fp32.

    A card then draws the pictures that a CPU draws. All switches are as before afterwards, whether
    they were set by ``allow_tf32`` or by ``fp32_precision``, which torch 2.9 added.
    """
    if dtype != torch.float32:
        yield
        return

    before = _precisions()
    precision = _matmul_precision()
    allowed = [_disallow(owner) for owner in (torch.backends.cudnn, torch.backends.cuda.matmul)]
    try:
        yield
    finally:
        for owner, value in filter(None, allowed):
            owner.allow_tf32 = value
        if precision is not None and _matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        for owner, value in before:
            if owner.fp32_precision != value:
                owner.fp32_precision = value


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Inside, a Mac's GPU that is full raises torch.OutOfMemoryError, as others do."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "MPS backend out of memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def _precisions() -> list[tuple[object, str]]:
    """Each operator's own switch and its value; [] before torch 2.9."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    owners = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul]
    return [(owner, owner.fp32_precision) for owner in owners]


def _matmul_precision() -> str | None:
    """``torch.get_float32_matmul_precision()``; None where torch refuses to say."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the user has set operators one by one
        return None


def _disallow(owner) -> tuple[object, bool] | None:
    """Switch TF32 off; returns what ``allow_tf32`` was, None where ``fp32_precision`` is used."""
    try:
        allowed = owner.allow_tf32
    except RuntimeError:  # torch refuses the older switch where the user has set the newer one
        newer = torch.backends.cudnn.conv if owner is torch.backends.cudnn else owner
        newer.fp32_precision = "ieee"
        return None
    except AttributeError as error:
        raise guard.changed("torch", "its backends have no allow_tf32") from error
    owner.allow_tf32 = False
    return owner, allowed
