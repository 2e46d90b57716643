"""A network's weights in a wider one that computes nearly the same.

Channels are repeated within their GroupNorm group, so that every group keeps its mean and variance,
and the weights that read them are divided by the number of repetitions (Net2Net,
https://arxiv.org/abs/1511.05641). Exact where widths grow by whole factors. A little noise tells
the repeated channels apart: without it they would stay equal for ever.
"""

from collections.abc import Mapping

import torch

NOISE = 0.02  # of a weight's standard deviation


def channel_sources(old: int, new: int, groups: int) -> torch.Tensor:
    """(new,) the old channel that each new one repeats."""
    if old == new:
        return torch.arange(new)
    old_size, new_size = old // groups, new // groups
    position = torch.arange(new) % new_size % old_size
    return torch.arange(new) // new_size * old_size + position


def widen_tensor(old: torch.Tensor, shape: torch.Size, groups: int, noise: float) -> torch.Tensor:
    """``old``, a weight (out, in, ...) or a vector (out,), in ``shape``."""
    outputs = channel_sources(old.shape[0], shape[0], groups)
    wide = old[outputs]
    if old.ndim < 2:
        return wide

    inputs = channel_sources(old.shape[1], shape[1], groups)
    repetitions = torch.bincount(inputs, minlength=old.shape[1])[inputs]
    wide = wide[:, inputs] / repetitions.view(1, -1, *[1] * (old.ndim - 2))
    if wide.shape == old.shape:
        return wide
    return wide + noise * wide.std() * torch.randn_like(wide)


def load(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], groups: int, noise: float = NOISE
) -> None:
    """Give ``model`` the weights of the same network at the same or smaller widths."""
    state = model.state_dict()
    if unknown := state.keys() ^ weights.keys():
        raise ValueError(f"The two networks differ in more than their widths: {sorted(unknown)}.")
    model.load_state_dict(
        {
            name: widen_tensor(weights[name].float(), tensor.shape, groups, noise)
            for name, tensor in state.items()
        }
    )
