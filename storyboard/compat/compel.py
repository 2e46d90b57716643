"""compel's providers of embeddings, in time that grows with a prompt's length and no faster."""

from storyboard.compat import guard

PACKAGE = "compel"


def provider(tokenizer, text_encoder, **options: object):
    """``EmbeddingsProvider`` that looks at one chunk where it splits a long prompt.

    compel 2.5 turns all tokens that are left into texts for each chunk, and reads those of the
    chunk alone.
    """
    from compel import EmbeddingsProvider

    guard.require(PACKAGE, EmbeddingsProvider, "_find_next_best_split_point")
    guard.require_parameters(
        PACKAGE, EmbeddingsProvider._find_next_best_split_point, "token_ids", "max_length"
    )

    class Provider(EmbeddingsProvider):
        def _find_next_best_split_point(self, token_ids, max_length, *more, **named) -> int:
            near = token_ids[: max_length + 1]  # longer than a chunk where all of them are
            return super()._find_next_best_split_point(near, max_length, *more, **named)

    return Provider(tokenizer, text_encoder, **options)
