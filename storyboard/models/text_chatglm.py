"""ChatGLM3, Kolors' text encoder: weighted words as shifts of the embedding."""

import torch

from storyboard import prompts as syntax
from storyboard.compat import diffusers
from storyboard.models.text_encoding import Embedding, encode_by_pipeline

SPECIAL_TOKENS = 2  # [GMASK] and sop, which stand before the prompt


class ChatGLMText:
    """``TextEncoding`` of Kolors."""

    def __init__(self, pipe, text_length: int, device: str, layers_left_out: int = 0) -> None:
        self.pipe = pipe
        self.text_length = text_length
        self.device = device

    @property
    def most_tokens(self) -> int:
        return self.text_length

    def is_cut(self, prompt: str) -> bool:
        return len(self.pipe.tokenizer(syntax.plain(prompt))["input_ids"]) > self.text_length

    def encode(self, prompt: str) -> Embedding:
        """By the pipeline, shifted where words have weights."""
        pieces = syntax.parse(prompt)
        tokens, pooled = self._by_pipeline(syntax.plain(prompt))
        if syntax.weighted(pieces):
            tokens, pooled = self._weighted(pieces, tokens, pooled)
        return Embedding(tokens, pooled, text_length=self.text_length)

    def _by_pipeline(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        return encode_by_pipeline(
            self.pipe, text, self.device, max_sequence_length=self.text_length
        )

    def _weighted(
        self, pieces: list[tuple[str, float]], plain: torch.Tensor, plain_pooled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each piece of weight w, ``(w - 1) (plain - without)`` is added to ``plain``.

        ``without`` is the embedding of the prompt without that piece, so that a weight of 0 is as
        if it had not been said. The piece's own tokens have padding there; those before do not see
        it (attention is causal); those behind, ``pooled``, the last one's state, and the padding,
        which alone sees the whole prompt, carry its meaning.
        """
        text = "".join(piece for piece, _ in pieces)
        offsets = diffusers.chatglm_offsets(self.pipe.tokenizer, text)
        # the prompt is padded on the left; where it is cut, it stands behind the special tokens
        length = self.text_length
        first = max(SPECIAL_TOKENS, length - len(offsets))
        padding = slice(0, first - SPECIAL_TOKENS)

        read = offsets[: length - first]
        last = read[-1][1] if read else 0  # character at which the part that is read ends

        tokens, pooled, start = plain.clone(), plain_pooled.clone(), 0
        for index, (piece, weight) in enumerate(pieces):
            if start >= last:
                break  # without what is not read, all is the same
            end = start + len(piece)
            if weight != 1:
                others = "".join(
                    other for position, (other, _) in enumerate(pieces) if position != index
                )
                without, without_pooled = self._by_pipeline(others)
                of_piece = [
                    token
                    for token, (low, high) in enumerate(offsets, first)
                    if low < end and high > start
                ]
                own = [token for token in of_piece if token < length]
                behind = own[-1] + 1 if own else length
                # where both are cut, what is behind stands further left in the shorter one
                count = len(of_piece)
                shift = first - max(SPECIAL_TOKENS, length - len(offsets) + count) + count

                for rows in (padding, own):
                    tokens[rows] += (weight - 1) * (plain[rows] - without[0])
                tokens[behind:] += (weight - 1) * (
                    plain[behind:] - without[behind - shift : length - shift]
                )
                pooled += (weight - 1) * (plain_pooled - without_pooled)
            start = end
        return tokens, pooled
