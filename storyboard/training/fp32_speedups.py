"""The UNet while a LoRA is trained: the same function with less arithmetic."""

import math

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.lora import Conv2d, Linear
from torch import nn
from torch.autograd.function import once_differentiable

KEYS = 16  # attention over a multiple of so many keys is the fastest


def keep_channels_last(unet: nn.Module) -> None:
    """Let the weights of ``unet`` and all that its convolutions see lie channels last.

    diffusers' transformer blocks hand on one channel after another, and so would all behind them.
    """
    unet.to(memory_format=torch.channels_last)
    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            module.register_forward_hook(
                lambda _module, _args, output: (
                    output[0].contiguous(memory_format=torch.channels_last),
                    *output[1:],
                )
            )


def add_to_weights(unet: nn.Module) -> None:
    """Let every LoRA of ``unet``, injected by peft, pass once through its layer, by ``W + scaling B A``.

    peft runs a branch beside each layer: two narrow products, a scaling and a sum of whole activations, and the same
    again backwards. For fp32: in 16 bits small values of the LoRA would vanish in W.
    """
    for module in unet.modules():
        if isinstance(module, Linear):
            module.forward = _Merged(module, _LoraProduct)
        elif isinstance(module, Conv2d) and module.get_base_layer().groups == 1:
            base = module.get_base_layer()
            module.forward = _Merged(
                module, _LoraConvolution, (base.stride, base.padding, base.dilation)
            )


def add_as_branches(unet: nn.Module) -> None:
    """Let every linear LoRA of ``unet``, injected by peft, run as a branch of few operations beside its layer. For 16 bits.

    peft's own branch casts the activation to the LoRA's fp32 and autocast casts it back, which makes for as many launches as
    the whole UNet has without a LoRA: on a fast card a step of one picture waits for Python most of its time
    (benchmarks/RESULTS.md).
    """
    for module in unet.modules():
        if isinstance(module, Linear):
            module.forward = _Merged(module, _LoraBranch)


class _Merged:
    """A layer's ``forward`` that gives a function the layer's weights and its LoRA's."""

    def __init__(
        self, module: nn.Module, function: type[torch.autograd.Function], geometry: tuple = ()
    ) -> None:
        self.module, self.function, self.geometry = module, function, geometry

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        (name,) = self.module.active_adapters
        base = self.module.get_base_layer()
        a, b = self.module.lora_A[name].weight, self.module.lora_B[name].weight
        return self.function.apply(
            x, base.weight, base.bias, a, b, self.module.scaling[name], *self.geometry
        )


class _LoraProduct(torch.autograd.Function):
    """x (..., i), weight (o, i), bias (o,), a (r, i), b (o, r) -> x (weight + scaling b a)^T + bias, (..., o).

    Written out because autograd would first make the gradient of the sum, (o, i), where two of rank r are wanted.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, a, b = ctx.saved_tensors
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        of_x = (
            (rows @ torch.addmm(weight, b, a, alpha=ctx.scaling)).view(x.shape)
            if ctx.needs_input_grad[0]
            else None
        )
        return (
            of_x,
            None,
            None,
            ((rows @ b).T @ inputs).mul_(ctx.scaling),
            (rows.T @ (inputs @ a.T)).mul_(ctx.scaling),
            None,
        )


class _LoraBranch(torch.autograd.Function):
    """x (..., i), weight (o, i), bias (o,) in 16 bits, a (r, i), b (o, r) in fp32 -> x weight^T + bias + scaling x a^T b^T, (..., o).

    All products are of 16 bits and sum in fp32; gradients of a and b come in fp32.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        rows = x.to(weight.dtype).flatten(0, -2)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        narrow = rows @ a.T
        ctx.save_for_backward(rows, weight, a, b, narrow)
        ctx.scaling, ctx.of_x = scaling, x.dtype
        return torch.addmm(
            nn.functional.linear(rows, weight, bias), narrow, b.T, alpha=scaling
        ).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, a, b, narrow = ctx.saved_tensors
        rows = gradient.to(weight.dtype).flatten(0, -2)
        of_narrow = (rows @ b).mul_(ctx.scaling)
        of_x = (
            torch.addmm(rows @ weight, of_narrow, a).view(*gradient.shape[:-1], -1).to(ctx.of_x)
            if ctx.needs_input_grad[0]
            else None
        )
        return (
            of_x,
            None,
            None,
            (of_narrow.T @ x).float(),
            (rows.T @ narrow).float().mul_(ctx.scaling),
            None,
        )


class _LoraConvolution(torch.autograd.Function):
    """x (n, i, h, w), weight (o, i, k, k), bias (o,), a (r, i, k, k), b (o, r, 1, 1) -> (n, o, h', w'), as ``_LoraProduct``."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling, stride, padding, dilation):
        narrow = nn.functional.conv2d(x, a, None, stride, padding, dilation)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scaling, ctx.geometry = scaling, (stride, padding, dilation)
        return nn.functional.conv2d(
            x, _summed(weight, a, b, scaling), bias, stride, padding, dilation
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, a, b, narrow = ctx.saved_tensors
        rows, hidden = (
            tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (gradient, narrow)
        )  # a pixel each
        of_narrow = (
            (rows @ b.flatten(1))
            .mul_(ctx.scaling)
            .view(*narrow.permute(0, 2, 3, 1).shape)
            .permute(0, 3, 1, 2)
        )
        through = lambda of_output, kernel, wanted: torch.ops.aten.convolution_backward(
            of_output,
            x,
            kernel,
            None,
            *ctx.geometry,
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=wanted,
        )
        of_x = (
            through(gradient, _summed(weight, a, b, ctx.scaling), (True, False, False))[0]
            if ctx.needs_input_grad[0]
            else None
        )
        of_a = through(of_narrow, a, (False, True, False))[1]
        return (
            of_x,
            None,
            None,
            of_a,
            (rows.T @ hidden).mul_(ctx.scaling).view(b.shape),
            None,
            None,
            None,
            None,
        )


def _summed(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """``weight + scaling b a`` of convolutions, (o, i, k, k), channels last."""
    flat, narrow = (kernel.permute(0, 2, 3, 1).flatten(1) for kernel in (weight, a))
    outputs, inputs, height, width = weight.shape
    return (
        torch.addmm(flat, b.flatten(1), narrow, alpha=scaling)
        .view(outputs, height, width, inputs)
        .permute(0, 3, 1, 2)
    )


def fold_padding(unet: nn.Module) -> None:
    """Let cross-attention see a run of n identical tokens at the start of every prompt as few, weighing ``log(n / few)``.

    Kolors pads on the left, with tokens of one hidden state; keys and values that are the same share a softmax
    exactly so: ``n exp(s) = few exp(s + log(n / few))``. Prompts that begin otherwise pass as they are. For fp32.
    """
    bias = None

    def shorten(_unet, args, named):
        nonlocal bias
        tokens = named["encoder_hidden_states"]
        equal = int((tokens[:, 1:] == tokens[:, :1]).all(-1).cumprod(1).sum(1).min()) + 1
        kept = -(-(tokens.shape[1] - equal + 1) // KEYS) * KEYS
        few = kept - (tokens.shape[1] - equal)
        bias = None
        if few >= equal:
            return None
        bias = tokens.new_zeros(len(tokens), 1, kept)
        bias[..., :few] = math.log(equal / few)
        return args, named | {"encoder_hidden_states": tokens[:, -kept:]}

    def weigh(_attention, args, named):
        return None if bias is None else (args, named | {"attention_mask": bias})

    unet.register_forward_pre_hook(shorten, with_kwargs=True)
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.register_forward_pre_hook(weigh, with_kwargs=True)
