"""peft's LoRA layers: what a forward of our own needs of them, and putting it in."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from peft.tuners.lora import Conv2d, Linear
from torch import nn

from storyboard.compat import guard

PACKAGE = "peft"


class LoraWeights(NamedTuple):
    """What a layer with a LoRA computes from: ``x weight^T + bias + scaling x a^T b^T``.

    Attributes:
        weight, bias: (o, i) and (o,) of the layer itself, or (o, i, k, k) of a convolution.
        a, b: (r, i) and (o, r), or (r, i, k, k) and (o, r, 1, 1).
        scaling: alpha / r.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scaling: float


class ReplacedForward:
    """The forward of a LoRA layer, replaced by ``function(x, weights)`` until ``remove``."""

    def __init__(
        self,
        layer: Linear | Conv2d,
        function: Callable[[torch.Tensor, LoraWeights], torch.Tensor],
    ) -> None:
        self.layer, self.function = layer, function
        self.before = layer.__dict__.get("forward")
        layer.forward = self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, weights(self.layer))

    def remove(self) -> None:
        """Give the layer back the forward that it had."""
        del self.layer.forward
        if self.before is not None:
            self.layer.forward = self.before


def linear_layers(model: nn.Module) -> Iterator[Linear]:
    """peft's linear layers in ``model``."""
    return (module for module in model.modules() if isinstance(module, Linear))


def convolutions(model: nn.Module) -> Iterator[Conv2d]:
    """peft's convolutions in ``model``, those of several groups left out."""
    for module in model.modules():
        if isinstance(module, Conv2d) and module.get_base_layer().groups == 1:
            yield module


def replace_forward(
    layer: Linear | Conv2d, function: Callable[[torch.Tensor, LoraWeights], torch.Tensor]
) -> ReplacedForward:
    """Let ``layer`` compute ``function(x, its weights)``.

    Raises:
        LibraryError: peft's layer has other parts, or computes more than a plain LoRA.
    """
    _check(layer)
    return ReplacedForward(layer, function)


def weights(layer: Linear | Conv2d) -> LoraWeights:
    """The layer's weights and those of its one active adapter, as they are now."""
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LoraWeights(base.weight, base.bias, a, b, layer.scaling[name])


def _check(layer: Linear | Conv2d) -> None:
    """Raise LibraryError unless ``layer`` has one plain LoRA: no dropout, bias or DoRA."""
    guard.require(
        PACKAGE,
        layer,
        "active_adapters",
        "get_base_layer",
        "lora_A",
        "lora_B",
        "scaling",
        "lora_dropout",
        "lora_bias",
        "lora_variant",
        "merged",
    )
    (name,) = layer.active_adapters
    plain = (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.lora_bias[name]
        and name not in layer.lora_variant
        and not layer.merged
    )
    guard.check(PACKAGE, plain, f"a LoRA of {type(layer).__name__} is more than two products")
