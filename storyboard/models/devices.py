"""Which device computes: a CUDA card, the GPU of Apple silicon (MPS), or the CPU."""

import gc

from storyboard.errors import SettingsError

CUDA, MPS, CPU = "cuda", "mps", "cpu"


def choose(wanted: str | None) -> str:
    """``wanted``, as in ``Settings.device``, or the first that torch has: CUDA, MPS, the CPU.

    Raises:
        SettingsError: torch does not find the one that is wanted.
    """
    import torch

    there = {CUDA: torch.cuda.is_available(), MPS: torch.backends.mps.is_available(), CPU: True}
    if wanted is None:
        return next(device for device, is_there in there.items() if is_there)
    if not there[wanted]:
        found = ", ".join(f'"{device}"' for device, is_there in there.items() if is_there)
        raise SettingsError(
            f'device="{wanted}" is not there for torch, which finds {found}: set one of these, '
            "or None."
        )
    return wanted


def free_memory(device: str) -> int:
    """Bytes that a model can take on a GPU, with what torch only keeps in reserve."""
    import torch

    gc.collect()
    if device == MPS:
        torch.mps.empty_cache()
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]
