"""What every text encoding offers; a family names its own in ``Family.text``."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import torch

from storyboard.models.families import Family


@dataclass(frozen=True)
class Embedding:
    """A prompt's embedding, on the CPU once it has been cached.

    Attributes:
        tokens: (l, d), where l is ``text_length`` or, for CLIP, a multiple of it.
        pooled: (p,), with p = 0 where the base has none.
        chunks: The prompt's parts that CLIP read one by one, each in the prompt's own syntax; ()
            where it was read at once, or where a word had to be cut in two.
        text_length: Tokens that the encoder reads at once; None means all that there are.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    chunks: tuple[str, ...] = ()
    text_length: int | None = None


class TextEncoding(Protocol):
    """Turns prompts into embeddings by the text encoders of a pipeline.

    Its class is called with ``(pipe, text_length, device, layers_left_out)``: diffusers' pipeline
    with text encoders and tokenizers, ``base.text_length``, torch's device, and how many layers
    earlier than usual CLIP is read.
    """

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read."""

    def is_cut(self, prompt: str) -> bool:
        """Whether the end of ``prompt`` is not read, because it is too long."""

    def encode(self, prompt: str) -> Embedding:
        """The embedding of ``prompt``, in the syntax of ``storyboard.prompts``."""


def encoding_of(family: Family) -> Callable[..., TextEncoding]:
    """The class that ``family`` names."""
    module, name = family.text
    return getattr(import_module(module), name)


def encode_by_pipeline(
    pipe, text: str, device: str, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers' pipeline makes of ``text``: unweighted, and cut where the encoder ends.

    Returns:
        (l, d) and (p,), with p = 0 where the pipeline has no pooled embedding.
    """
    parts = pipe.encode_prompt(
        prompt=text,
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **options,
    )
    prompt_embeds = parts[0][0]
    pooled = parts[2][0] if len(parts) == 4 else prompt_embeds.new_zeros(0)
    return prompt_embeds, pooled
