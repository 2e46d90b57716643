"""One or two CLIP text encoders: prompts of any length and weighted words, by compel."""

from contextlib import AbstractContextManager

import torch

from storyboard import prompts as syntax
from storyboard.compat import compel, transformers
from storyboard.errors import SettingsError, brief
from storyboard.models.text_encoding import Embedding, encode_by_pipeline

Pieces = list[tuple[str, float]]  # texts and weights, as ``prompts.parse`` gives them
Position = tuple[int, int]  # index of a piece, and of a character in it

MARKERS = 2  # of each chunk, at its start and its end
MOST_CHUNKS = 32
MOST_READINGS = 512  # chunks that are read again without a part that weighs less than 1


class ClipText:
    """``TextEncoding`` of SD 1.5 and SDXL, and of what else diffusers conditions by CLIP."""

    def __init__(self, pipe, text_length: int, device: str, layers_left_out: int = 0) -> None:
        self.pipe = pipe
        self.text_length = text_length
        self.device = device
        self.layers_left_out = layers_left_out

    @property
    def most_tokens(self) -> int:
        """What is read of a prompt: cross-attention is over all of it, in every step."""
        return MOST_CHUNKS * (self.text_length - MARKERS)

    def is_cut(self, prompt: str) -> bool:
        """Whether it is longer than MOST_CHUNKS; up to there it is read in chunks."""
        length = len(self.pipe.tokenizer(syntax.plain(prompt))["input_ids"]) - MARKERS
        return length > self.most_tokens

    def encode(self, prompt: str) -> Embedding:
        """By the pipeline where that reads it whole, else by compel; ``pooled`` of all layers.

        The pooled embedding of a long prompt is that of its first chunk.

        Raises:
            SettingsError: Too many words of a long prompt weigh less than 1.
        """
        pieces = self._read(prompt)
        text = "".join(words for words, _ in pieces)
        length = len(self.pipe.tokenizer(text)["input_ids"])
        tokens, pooled = encode_by_pipeline(self.pipe, text, self.device)
        chunks = []

        if length > self.text_length or syntax.weighted(pieces):
            self._check_light(prompt, pieces, length)
            with without_last_layers(self.pipe, self.layers_left_out):
                tokens, chunks = weighted(self.pipe, pieces, self.text_length, self.device)
            if chunks:
                first = syntax.plain(chunks[0])
                _, pooled = encode_by_pipeline(self.pipe, first, self.device)
        elif self.layers_left_out:
            with without_last_layers(self.pipe, self.layers_left_out):
                tokens, _ = encode_by_pipeline(self.pipe, text, self.device)
        return Embedding(tokens, pooled, tuple(chunks), self.text_length)

    def _read(self, prompt: str) -> Pieces:
        """The pieces of ``prompt`` up to ``most_tokens``."""
        pieces = syntax.parse(prompt)
        if not self.is_cut(prompt):
            return pieces
        ends = _ends_of_tokens(self.pipe.tokenizer, pieces)
        stop = ends[min(self.most_tokens, len(ends)) - 1]
        return _between(pieces, (0, 0), stop)

    def _check_light(self, prompt: str, pieces: Pieces, length: int) -> None:
        """Raise SettingsError where compel would read the chunks too often."""
        light = sum(weight < 1 for _, weight in pieces)
        chunks = -(-length // self.text_length)
        if light * chunks > MOST_READINGS:
            raise SettingsError(
                f"The prompt {brief(prompt)} weighs {light} parts below 1, for each of which its "
                f"{chunks} chunks are read again: weigh at most {MOST_READINGS // chunks} parts "
                "below 1, or write a shorter prompt."
            )


def without_last_layers(pipe, count: int) -> AbstractContextManager[None]:
    """Inside, the CLIP encoders of ``pipe`` lack their last ``count`` layers.

    What is read at the end is then read that much earlier, by compel as well.
    """
    encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    present = [encoder for encoder in encoders if encoder is not None]
    return transformers.without_last_layers(present, count)


def weighted(pipe, pieces: Pieces, text_length: int, device: str) -> tuple[torch.Tensor, list[str]]:
    """Weighted pieces, read in n chunks that end where a phrase ends, by compel.

    A weight w of 1 or more puts a token z at ``empty + w (z - empty)``, empty being the empty
    prompt's embedding; one below 1 mixes the whole, at 1 : tan((1 - w) pi / 2), with the prompt in
    which those words are masked (https://github.com/damian0815/compel, ``EmbeddingsProvider``).

    Returns:
        Embeddings (n text_length, d), and the text of each chunk as ``_chunks`` gives it.
    """
    from compel import ReturnedEmbeddingsType, SplitLongTextMode

    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    kind = ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
    if getattr(pipe, "text_encoder_2", None) is not None:
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
        kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED

    texts = [text for text, _ in pieces]
    weights = [weight for _, weight in pieces]
    providers = [
        compel.provider(
            tokenizer,
            encoder,
            truncate=False,
            returned_embeddings_type=kind,
            split_long_text_mode=SplitLongTextMode.PHRASES,
        )
        for tokenizer, encoder in encoders
    ]
    embeddings = [
        provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=device)[0]
        for provider in providers
    ]
    ids, _, _ = providers[0].get_token_ids_and_expand_weights(texts, weights, device)
    chunks = _chunks(pipe.tokenizer, pieces, ids, text_length)
    return torch.cat(embeddings, dim=-1), chunks


def _chunks(tokenizer, pieces: Pieces, ids: torch.Tensor, text_length: int) -> list[str]:
    """The text of each chunk with its weights; [] where there is one, or a word was cut in two.

    Args:
        ids: (n text_length,), the tokens of ``pieces`` in n chunks, each with its start, end and
            padding.
    """
    if len(ids) == text_length:
        return []
    chunks = [
        chunk[1 : chunk.index(tokenizer.eos_token_id)]
        for chunk in ids.reshape(-1, text_length).tolist()
    ]

    parts, start, token = [], (0, 0), 0
    ends = _ends_of_tokens(tokenizer, pieces)
    last = (len(pieces) - 1, len(pieces[-1][0]))
    for chunk in chunks:
        token += len(chunk)
        stop = ends[token - 1] if token < len(ends) else last
        parts.append(_between(pieces, start, stop))
        start = stop

    # a word that was cut in two has other tokens when each half is read alone
    if [_tokens(tokenizer, chunk) for chunk in parts] != chunks:
        return []
    return [syntax.written(chunk) for chunk in parts]


def _ends_of_tokens(tokenizer, pieces: Pieces) -> list[Position]:
    """Where each token of ``pieces`` ends."""
    ends = []
    for index, (text, _) in enumerate(pieces):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends += [(index, end) for _, end in encoded["offset_mapping"]]
    return ends


def _tokens(tokenizer, pieces: Pieces) -> list[int]:
    return [
        token
        for text, _ in pieces
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]


def _between(pieces: Pieces, start: Position, stop: Position) -> Pieces:
    """The part of ``pieces`` from ``start`` to ``stop``."""
    parts = []
    for index in range(start[0], stop[0] + 1):
        text, weight = pieces[index]
        low = start[1] if index == start[0] else 0
        high = stop[1] if index == stop[0] else len(text)
        if high > low:
            parts.append((text[low:high], weight))
    return parts
