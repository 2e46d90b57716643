"""Muon: momentum whose update is orthogonalised, for matrices and convolutions.

Jordan et al., https://kellerjordan.github.io/posts/muon/; update scaled to AdamW's size as in
Moonlight (https://arxiv.org/abs/2502.16982). On the VAE of ``mini`` 200 steps gave 20.3 dB where
AdamW gave 16.2.
"""

from collections import defaultdict

import torch


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrix by a quintic Newton-Schulz iteration, roughly, in bf16.

    Args:
        matrix: (..., rows, columns).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions; all but the first are flattened."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            grads = [p.grad for p in parameters]
            for p in parameters:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            means = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_lerp_(means, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, means, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for rows in _batches(parameters):
                self._move([parameters[r] for r in rows], [updates[r] for r in rows], group["lr"])

    def _move(self, parameters: list, updates: list, lr: float) -> None:
        """Move parameters of one shape by their orthogonalised updates."""
        matrices = [update.reshape(len(update), -1) for update in updates]
        if len(matrices) == 1:
            directions = [orthogonalise(matrices[0])]
        else:
            directions = orthogonalise(torch.stack(matrices)).unbind()
        size = 0.2 * lr * max(matrices[0].shape) ** 0.5
        for p, direction in zip(parameters, directions, strict=True):
            p.add_(direction.view_as(p), alpha=-size)


def _batches(parameters: list[torch.Tensor]) -> list[list[int]]:
    """Rows of parameters that are orthogonalised together.

    On a card those of one shape, because there a launch costs more than its arithmetic; on a CPU
    each alone.
    """
    batches = defaultdict(list)
    for row, p in enumerate(parameters):
        batches[(p.device, p.shape) if p.is_cuda else row].append(row)
    return list(batches.values())


def split(model: torch.nn.Module, exclude: tuple[str, ...]) -> tuple[list, list]:
    """Parameters for Muon, and the rest for AdamW.

    The rest are vectors, and modules with a word of ``exclude`` in their names.
    """
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim >= 2 and not any(word in name for word in exclude):
            matrices.append(parameter)
        else:
            rest.append(parameter)
    return matrices, rest
