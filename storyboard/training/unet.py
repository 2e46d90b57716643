"""The UNet while a LoRA is trained: the same function with less arithmetic."""

import math

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.autograd.function import once_differentiable

KEYS = 16  # attention over a multiple of so many keys is the fastest


def add_to_weights(unet: nn.Module) -> None:
    """Let every linear LoRA of ``unet``, injected by peft, multiply once, by ``W + scaling B A``.

    peft runs a branch beside each layer: two narrow products, a scaling and a sum of whole activations, and the same
    again backwards. For fp32: in 16 bits small values of the LoRA would vanish in W.
    """
    for module in unet.modules():
        if isinstance(module, Linear):
            module.forward = _Merged(module)


class _Merged:
    def __init__(self, module: Linear) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        name, = self.module.active_adapters
        base = self.module.get_base_layer()
        return _LoraProduct.apply(x, base.weight, base.bias, self.module.lora_A[name].weight, self.module.lora_B[name].weight, self.module.scaling[name])


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
        of_x = (rows @ torch.addmm(weight, b, a, alpha=ctx.scaling)).view(x.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, ((rows @ b).T @ inputs).mul_(ctx.scaling), (rows.T @ (inputs @ a.T)).mul_(ctx.scaling), None


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
