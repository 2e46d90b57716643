"""TF32 of CUDA cards, a global switch of torch: convolutions take it by default, with 10 bits of mantissa where fp32 has 23."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def true_fp32(dtype: torch.dtype) -> Iterator[None]:
    """Where ``dtype`` is fp32, convolutions and products of matrices are in fp32 inside: a card then draws the CPU's pictures."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul) if dtype == torch.float32 else ()
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, allowed in zip(switches, before):
            switch.allow_tf32 = allowed
