"""Self-attention that also looks at the first picture of a batch, as StyleAligned's does."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from storyboard.compat import diffusers


class SharedAttention:
    """Self-attention in which every picture of a batch also attends to the first one's tokens.

    As StyleAligned does (https://arxiv.org/abs/2312.02133), with its shift of the shared scores by
    log(strength): a token of the first picture then weighs ``strength`` times one of a picture's
    own. Without its AdaIN of queries and keys, which made backgrounds alike, too (measured on
    mini).

    Args:
        batch_size: Pictures in the batch; under guidance the UNet sees twice as many rows.
        strength: Above 0.
    """

    def __init__(self, batch_size: int, strength: float) -> None:
        self.batch_size = batch_size
        self.shift = math.log(strength)

    def __call__(
        self,
        attn,
        hidden_states: torch.Tensor,
        encoder_hidden_states=None,
        attention_mask=None,
        temb=None,
        **_named,
    ) -> torch.Tensor:
        """(b, l, d) -> (b, l, d), as diffusers' attention processors are called."""
        rows, tokens, _ = hidden_states.shape
        query = attn.to_q(hidden_states)
        key = attn.to_k(hidden_states)
        value = attn.to_v(hidden_states)
        key = torch.cat([key, self._of_first(key)], 1)
        value = torch.cat([value, self._of_first(value)], 1)
        bias = query.new_zeros(1, 1, 1, 2 * tokens)
        bias[..., tokens:] = self.shift

        def heads(t: torch.Tensor) -> torch.Tensor:
            return t.view(rows, -1, attn.heads, t.shape[2] // attn.heads).transpose(1, 2)

        out = F.scaled_dot_product_attention(heads(query), heads(key), heads(value), bias)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))

    def _of_first(self, t: torch.Tensor) -> torch.Tensor:
        """(b, ...) -> each half's first row in place of every row of it."""
        halves = t.unflatten(0, (-1, self.batch_size))
        first = halves[:, :1].expand(-1, self.batch_size, *(-1,) * (t.ndim - 1))
        return first.flatten(0, 1)


@contextmanager
def shared(unet: torch.nn.Module, batch_size: int, strength: float) -> Iterator[int]:
    """While open, the self-attention of ``unet`` is shared; yields the number of layers.

    Afterwards every processor is back. Arguments as ``SharedAttention``.
    """
    with diffusers.self_attention(unet, SharedAttention(batch_size, strength)) as layers:
        yield layers
