"""Captions as tokens on the card, several wordings a picture, made by other processes."""

import random
from multiprocessing.pool import Pool

import numpy as np
import torch
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

from tools import text
from tools.captions import caption

WORDINGS = 8  # of a picture
ATTRIBUTE_DROPOUT = 0.1
CHUNK = 500  # pictures a task
PATIENCE = 60  # seconds

_tokenizer: ChatGLMTokenizer | None = None  # what forked workers know


def tokenise(tokenizer: ChatGLMTokenizer, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32 (n, l), padded on the left, and how many of them are real (n,)."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=text.LENGTH, truncation=True, return_tensors="np"
    )
    return tokens["input_ids"].astype(np.int32), tokens["attention_mask"].sum(1)


def _tokenise(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """All wordings of some pictures, the languages in turn."""
    captions = []
    for row in rows:
        rng = random.Random(f"{row['style']}-{row['id']}-{row.get('blurred')}")
        captions += [
            caption(row, ("zh", "en")[n % 2], rng, ATTRIBUTE_DROPOUT) for n in range(WORDINGS)
        ]
    return tokenise(_tokenizer, captions)


class Words:
    """Tokens of the captions of ``rows``."""

    def __init__(self, tokenizer: ChatGLMTokenizer, rows: list[dict]) -> None:
        global _tokenizer  # noqa: PLW0603 (forked workers cannot be given it any cheaper)
        _tokenizer = tokenizer
        self.rows = rows
        self.empty = tokenise(tokenizer, [""])

    def begin(self, pool: Pool) -> None:
        """Tokenise, in workers that were forked after these words were made."""
        starts = range(0, len(self.rows), CHUNK)
        chunks = [self.rows[start : start + CHUNK] for start in starts]
        self.pending = pool.map_async(_tokenise, chunks, chunksize=1)

    def to_card(self, device: torch.device) -> None:
        """Wait for the workers; the row after the last picture's holds the empty caption."""
        parts = [*self.pending.get(PATIENCE), self.empty]
        self.ids = torch.from_numpy(np.concatenate([part[0] for part in parts])).to(device)
        self.counts = torch.from_numpy(np.concatenate([part[1] for part in parts])).to(device)

    def tokens(self, pictures: torch.Tensor, dropout: float) -> dict[str, torch.Tensor]:
        """What the tokenizer would return for a random wording of each picture (n,)."""
        rows = pictures * WORDINGS + torch.randint_like(pictures, WORDINGS)
        none = torch.rand(len(rows), device=rows.device) < dropout
        return self._rows(torch.where(none, len(self.ids) - 1, rows))

    def _rows(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        ids, count = self.ids[rows].long(), self.counts[rows]
        place = torch.arange(text.LENGTH, device=rows.device) - (text.LENGTH - count[:, None])
        return {
            "input_ids": ids,
            "attention_mask": (place >= 0).long(),
            "position_ids": place.clamp(min=0),
        }
