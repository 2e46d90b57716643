"""Muon: momentum whose update is orthogonalised, for matrices and convolutions.

Jordan et al., https://kellerjordan.github.io/posts/muon/; update scaled to AdamW's size as in
Moonlight (https://arxiv.org/abs/2502.16982). On the VAE of ``mini`` 200 steps gave 20.3 dB where
AdamW gave 16.2.
"""

import torch


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrix by a quintic Newton-Schulz iteration, roughly, in bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions; all but the first are flattened."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                mean = state.setdefault("momentum", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(mean, group["momentum"]).reshape(len(p), -1))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-0.2 * group["lr"] * max(update.shape) ** 0.5)


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
