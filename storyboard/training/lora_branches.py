"""Training in 16 bits with fewer operations: a LoRA as a short branch beside its layer."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from storyboard.compat import peft
from storyboard.compat.peft import LoraWeights, ReplacedForward


def add_as_branches(unet: nn.Module) -> list[ReplacedForward]:
    """Let every linear LoRA of ``unet``, injected by peft, run as a branch of few operations.

    peft's own branch casts the activation to the LoRA's fp32 and autocast casts it back: as many
    kernel launches as the whole UNet has without a LoRA. On a fast card a step of one picture then
    waits for Python most of its time (benchmarks/RESULTS.md).

    Returns:
        What restores peft's forwards by ``remove``.
    """
    return [peft.replace_forward(layer, _branch) for layer in peft.linear_layers(unet)]


def _branch(x: torch.Tensor, layer: LoraWeights) -> torch.Tensor:
    return LoraBranch.apply(x, *layer)


class LoraBranch(torch.autograd.Function):
    """x (..., i) -> x weight^T + bias + scaling x a^T b^T, (..., o).

    weight (o, i) and bias (o,) in 16 bits, a (r, i) and b (o, r) in fp32. All products are of 16
    bits and are summed in fp32; gradients of a and b are in fp32.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        inputs = x.to(weight.dtype).flatten(0, -2)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        narrow = inputs @ a.T
        ctx.save_for_backward(inputs, weight, a, b, narrow)
        ctx.scaling, ctx.input_dtype = scaling, x.dtype

        output = nn.functional.linear(inputs, weight, bias)
        output = torch.addmm(output, narrow, b.T, alpha=scaling)
        return output.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        inputs, weight, a, b, narrow = ctx.saved_tensors
        grads = grad_output.to(weight.dtype).flatten(0, -2)
        grad_narrow = (grads @ b).mul_(ctx.scaling)

        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(grads @ weight, grad_narrow, a)
            grad_x = grad_x.view(*grad_output.shape[:-1], -1).to(ctx.input_dtype)
        grad_a = (grad_narrow.T @ inputs).float()
        grad_b = (grads.T @ narrow).float().mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None
