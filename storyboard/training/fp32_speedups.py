"""Training in fp32 with less arithmetic: the UNet with its LoRA stays the same function.

A LoRA is added to the weights of its layer, and padding of the prompt is folded. In 16 bits the sum
would lose small values of the LoRA, and the weight of the padding: ``lora_branches`` is for those.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from storyboard.compat import diffusers, peft
from storyboard.compat.peft import LoraWeights, ReplacedForward

KEY_MULTIPLE = 16  # attention is fastest over a number of keys that this divides


def add_to_weights(unet: nn.Module) -> list[ReplacedForward]:
    """Let every LoRA of ``unet``, injected by peft, pass through its layer: ``W + scaling b a``.

    peft's own forward runs a branch beside each layer: two narrow products, a scaling and a sum of
    whole activations, and the same again backwards.

    Returns:
        What restores peft's forwards by ``remove``.
    """
    linear = [peft.replace_forward(layer, _linear) for layer in peft.linear_layers(unet)]
    return linear + [_replace_convolution(layer) for layer in peft.convolutions(unet)]


def _linear(x: torch.Tensor, layer: LoraWeights) -> torch.Tensor:
    return LoraLinear.apply(x, *layer)


def _replace_convolution(layer: nn.Module) -> ReplacedForward:
    base = layer.get_base_layer()
    geometry = base.stride, base.padding, base.dilation

    def convolve(x: torch.Tensor, layer: LoraWeights) -> torch.Tensor:
        return LoraConvolution.apply(x, *layer, *geometry)

    return peft.replace_forward(layer, convolve)


class LoraLinear(torch.autograd.Function):
    """x (..., i) -> x (weight + scaling b a)^T + bias, (..., o).

    weight (o, i), bias (o,), a (r, i), b (o, r). Written out because autograd would first make the
    gradient of the sum, (o, i), where two of rank r are wanted.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        x, weight, a, b = ctx.saved_tensors
        grads, inputs = grad_output.flatten(0, -2), x.flatten(0, -2)  # a token each row

        grad_x = None
        if ctx.needs_input_grad[0]:
            merged = torch.addmm(weight, b, a, alpha=ctx.scaling)
            grad_x = (grads @ merged).view(x.shape)
        grad_a = ((grads @ b).T @ inputs).mul_(ctx.scaling)
        grad_b = (grads.T @ (inputs @ a.T)).mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None


class LoraConvolution(torch.autograd.Function):
    """x (n, i, h, w) -> (n, o, h', w'), as ``LoraLinear``.

    weight (o, i, k, k), bias (o,), a (r, i, k, k), b (o, r, 1, 1).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling, stride, padding, dilation):
        narrow = nn.functional.conv2d(x, a, None, stride, padding, dilation)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scaling, ctx.geometry = scaling, (stride, padding, dilation)
        merged = _merged_kernel(weight, a, b, scaling)
        return nn.functional.conv2d(x, merged, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        x, weight, a, b, narrow = ctx.saved_tensors
        channels_last = narrow.permute(0, 2, 3, 1)
        grads = grad_output.permute(0, 2, 3, 1).flatten(0, 2)  # a pixel each row
        hidden = channels_last.flatten(0, 2)

        grad_narrow = (grads @ b.flatten(1)).mul_(ctx.scaling)
        grad_narrow = grad_narrow.view(*channels_last.shape).permute(0, 3, 1, 2)

        grad_x = None
        if ctx.needs_input_grad[0]:
            merged = _merged_kernel(weight, a, b, ctx.scaling)
            grad_x = _convolution_backward(
                grad_output, x, merged, ctx.geometry, (True, False, False)
            )[0]
        grad_a = _convolution_backward(grad_narrow, x, a, ctx.geometry, (False, True, False))[1]
        grad_b = (grads.T @ hidden).mul_(ctx.scaling).view(b.shape)
        return grad_x, None, None, grad_a, grad_b, None, None, None, None


def _convolution_backward(
    grad_output: torch.Tensor,
    x: torch.Tensor,
    kernel: torch.Tensor,
    geometry: tuple,
    output_mask: tuple[bool, bool, bool],
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the input, the kernel and the bias, those that ``output_mask`` asks for."""
    return torch.ops.aten.convolution_backward(
        grad_output,
        x,
        kernel,
        None,
        *geometry,
        transposed=False,
        output_padding=(0, 0),
        groups=1,
        output_mask=output_mask,
    )


def _merged_kernel(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
) -> torch.Tensor:
    """``weight + scaling b a`` of convolutions, (o, i, k, k), channels last."""
    flat, narrow = (kernel.permute(0, 2, 3, 1).flatten(1) for kernel in (weight, a))
    outputs, inputs, height, width = weight.shape
    merged = torch.addmm(flat, b.flatten(1), narrow, alpha=scaling)
    return merged.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def fold_padding(unet: nn.Module) -> list[RemovableHandle]:
    """Let cross-attention see n identical tokens at the start of every prompt as m < n.

    Kolors pads on the left, with tokens of one hidden state. Keys and values that are the same
    share a softmax exactly so: ``n exp(s) = m exp(s + log(n / m))``. Prompts that do not begin with
    such tokens are not changed.

    Returns:
        What restores the UNet by ``remove``.
    """
    folding = _Folding()
    return [
        diffusers.replace_prompt_embeds(unet, folding.shorten),
        *(
            diffusers.add_attention_bias(layer, folding.current_bias)
            for layer in diffusers.cross_attention_layers(unet)
        ),
    ]


class _Folding:
    """The bias of the batch that is in the UNet."""

    def __init__(self) -> None:
        self.bias: torch.Tensor | None = None

    def current_bias(self) -> torch.Tensor | None:
        """(n, 1, keys) that attention adds to its scores; None where nothing was folded."""
        return self.bias

    def shorten(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        """(n, l, d) -> (n, keys, d); None where it would not be shorter."""
        self.bias = None
        length = prompt_embeds.shape[1]
        same_as_first = (prompt_embeds[:, 1:] == prompt_embeds[:, :1]).all(-1)
        identical = int(same_as_first.cumprod(1).sum(1).min()) + 1  # in every prompt

        others = length - identical
        keys = -(-(others + 1) // KEY_MULTIPLE) * KEY_MULTIPLE  # rounded up
        fewer = keys - others
        if fewer >= identical:
            return None

        self.bias = prompt_embeds.new_zeros(len(prompt_embeds), 1, keys)
        self.bias[..., :fewer] = math.log(identical / fewer)
        return prompt_embeds[:, -keys:]
