"""Which panels are denoised together: the rule for new pictures, and the batches of drawn ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from storyboard.models.conditioning import MOST_CHUNKS, Embedding
from storyboard.records import TEXTS, PanelRecord


@dataclass(frozen=True)
class Batch:
    """Panels that are denoised together.

    Attributes:
        indices: Of the panels, from 0, in the order of their rows.
        extra_rows: Rows before those, in which panel 1 is denoised and not kept.
        fillers: Positions in ``indices`` that take a row and are not kept.
        text_length: Tokens that all prompts are repeated to; 0 takes what they have in common.
        vae_tiling: Whether pictures are decoded in tiles.
    """

    indices: tuple[int, ...]
    extra_rows: int = 0
    fillers: frozenset[int] = frozenset()
    text_length: int = 0
    vae_tiling: bool = False

    @property
    def panels(self) -> list[int]:
        """Indices of the panels that are kept."""
        return [index for row, index in enumerate(self.indices) if row not in self.fillers]

    def split(self, size: int, panels: Sequence[int] | None = None) -> list["Batch"]:
        """Batches of at most ``size`` of the kept panels, or of ``panels``, without fillers."""
        panels = self.panels if panels is None else panels
        return [
            replace(self, indices=tuple(panels[start : start + size]), fillers=frozenset())
            for start in range(0, len(panels), size)
        ]


def new_batches(
    records: Sequence[PanelRecord],
    indices: Sequence[int],
    embeddings: Mapping[str, Embedding],
    *,
    size: int,
    text_length: int,
    vae_tiling: bool,
) -> list[Batch]:
    """Batches of the panels ``indices`` of ``records``, none of which is drawn yet.

    Panels without character consistency come first: the others may need panel 1's picture. Then
    come those without a reference.

    Args:
        embeddings: Of every prompt and negative prompt.
        size: Rows in a batch at most; shared attention takes one of them for panel 1.
        text_length: Tokens that the base reads at once.
    """
    ordered = sorted(indices, key=lambda index: _order(records[index]))
    groups: dict[tuple, list[int]] = {}
    for index in ordered:
        groups.setdefault(_common(records[index]), []).append(index)

    batches = []
    for group in groups.values():
        extra_rows = _extra_rows(records[group[0]])
        for part in _of_similar_lengths(group, records, embeddings, text_length):
            whole = Batch(tuple(part), extra_rows, vae_tiling=vae_tiling)
            batches += whole.split(max(1, size - extra_rows))
    return batches


def drawn_batches(records: Sequence[PanelRecord]) -> list[Batch]:
    """Batches as large as those that ``records`` were drawn in, each panel in its row.

    What a picture's arithmetic depends on is the size of its batch, its row, how far prompts were
    repeated, and references and character, not its neighbours. A panel that was redrawn later left
    a gap in its old batch, which is filled with the first panel of that batch.
    """
    batches: list[tuple[tuple, dict[int, int]]] = []  # what its panels have in common, row -> index
    for index, record in enumerate(records):
        drawn = record.drawn
        key = (drawn.batch, drawn.text_length, drawn.vae_tiling, *_common(record))
        rows = next(
            (rows for other, rows in batches if other == key and drawn.row not in rows), None
        )
        if rows is None:
            batches.append((key, rows := {}))
        rows[drawn.row] = index

    return [_refilled(records, rows) for _, rows in batches]


def _refilled(records: Sequence[PanelRecord], rows: Mapping[int, int]) -> Batch:
    """The batch of the panels ``rows`` (row -> index), whose gaps are filled."""
    first = next(iter(rows.values()))
    record = records[first]
    extra_rows = _extra_rows(record)
    kept = range(extra_rows, record.drawn.batch)
    return Batch(
        indices=tuple(rows.get(row, first) for row in kept),
        extra_rows=extra_rows,
        fillers=frozenset(row - extra_rows for row in kept if row not in rows),
        text_length=record.drawn.text_length,
        vae_tiling=record.drawn.vae_tiling,
    )


def texts(records: Sequence[PanelRecord], indices: Sequence[int]) -> list[str]:
    """The prompts of the panels ``indices``, and of panel 1 where they look at it."""
    with_character = any(records[index].character for index in indices)
    needed = [*indices, *([0] if with_character else [])]
    return list(dict.fromkeys(getattr(records[i], name) for i in needed for name in TEXTS))


def lengths(
    records: Sequence[PanelRecord], indices: Sequence[int], embeddings: Mapping[str, Embedding]
) -> list[int]:
    """Tokens of each prompt and negative prompt of the panels ``indices``."""
    return [
        len(embeddings[getattr(records[index], name)].tokens) for index in indices for name in TEXTS
    ]


def _order(record: PanelRecord) -> tuple[bool, bool]:
    return record.character is not None, record.reference is not None


def _common(record: PanelRecord) -> tuple:
    """What panels of one batch have in common."""
    reference = record.reference
    from_picture = reference is not None and reference.control == "image"
    return (
        record.width,
        record.height,
        record.steps,
        record.guidance_scale,
        record.guidance_end,
        record.character and record.character.method,
        reference and reference.controlnet,
        reference.strength if from_picture else None,
    )


def _extra_rows(record: PanelRecord) -> int:
    """Shared attention needs panel 1 in every batch."""
    return int(record.character is not None and record.character.method == "shared")


def _of_similar_lengths(
    group: list[int],
    records: Sequence[PanelRecord],
    embeddings: Mapping[str, Embedding],
    text_length: int,
) -> list[list[int]]:
    """``group`` whole, or in parts of one length each where the common one would be too large."""
    if math.lcm(*lengths(records, group, embeddings)) <= MOST_CHUNKS * text_length:
        return [group]
    parts: dict[int, list[int]] = {}
    for index in group:
        parts.setdefault(math.lcm(*lengths(records, [index], embeddings)), []).append(index)
    return list(parts.values())
