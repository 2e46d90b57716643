"""Batches: which panels are denoised together, and those of pictures that are drawn again."""

import pytest
import torch

from storyboard.models.conditioning import Embedding
from storyboard.records import CharacterRecord, DrawnRecord, PanelRecord, ReferenceRecord
from storyboard.rendering.batching import Batch, drawn_batches, new_batches
from tests.test_png import RECORD

SHARED = CharacterRecord(method="shared", strength=1.0, source="1" * 64)
EDGES = ReferenceRecord(control="edges", strength=1.0, file="r.png", controlnet="2" * 64)
DEPTH = ReferenceRecord(control="depth", strength=1.0, file="r.png", controlnet="3" * 64)
IMAGE = ReferenceRecord(control="image", strength=0.5, file="r.png")
EMBEDDING = Embedding(torch.zeros(77, 4), torch.zeros(0))


def record(**changes) -> PanelRecord:
    return RECORD.model_copy(update=changes)


def batches(records, indices=None, size=4, embeddings=None) -> list[Batch]:
    return new_batches(
        records,
        range(len(records)) if indices is None else indices,
        embeddings or {"a": EMBEDDING, "b": EMBEDDING},
        size=size,
        text_length=77,
        vae_tiling=False,
    )


def test_panels_without_a_reference_come_first_and_kinds_are_not_mixed():
    records = [
        record(reference=EDGES),
        record(),
        record(reference=IMAGE),
        record(reference=DEPTH),
        record(reference=EDGES),
        record(),
        record(reference=IMAGE.model_copy(update={"strength": 0.7})),
    ]
    assert [batch.indices for batch in batches(records)] == [(1, 5), (0, 4), (2,), (3,), (6,)]
    assert [batch.indices for batch in batches(records, [4, 5])] == [(5,), (4,)]


def test_shared_attention_draws_panel_1_alone_and_then_beside_the_others():
    records = [record(), *[record(character=SHARED)] * 4]
    assert [(batch.indices, batch.extra_rows) for batch in batches(records)] == [
        ((0,), 0),
        ((1, 2, 3), 1),
        ((4,), 1),
    ]
    assert [batch.indices for batch in batches(records, size=1)] == [(0,), (1,), (2,), (3,), (4,)]


def test_prompts_whose_common_length_is_too_large_are_drawn_by_length():
    chunks = {"a": 1, "b": 1, "4": 4, "5": 5}
    embeddings = {
        name: Embedding(torch.zeros(77 * count, 4), torch.zeros(0))
        for name, count in chunks.items()
    }
    records = [record(prompt="4"), record(), record(prompt="5"), record(prompt="4")]
    found = batches(records, embeddings=embeddings)
    assert [batch.indices for batch in found] == [(0, 3), (1,), (2,)]
    assert [batch.indices for batch in batches(records[:2], embeddings=embeddings)] == [(0, 1)]


def drawn(batch: int, row: int, **changes) -> PanelRecord:
    how = DrawnRecord(batch=batch, row=row, text_length=77, vae_tiling=True)
    return record(drawn=how, **changes)


def test_drawn_panels_keep_their_rows_and_gaps_are_filled():
    records = [drawn(3, 0), drawn(1, 0), drawn(3, 2), drawn(3, 0)]
    found = drawn_batches(records)
    assert [batch.indices for batch in found] == [(0, 0, 2), (1,), (3, 3, 3)]
    assert [batch.panels for batch in found] == [[0, 2], [1], [3]]
    assert all(batch.vae_tiling and batch.text_length == 77 for batch in found)


def test_drawn_panels_with_shared_attention_leave_row_0_to_panel_1():
    records = [drawn(1, 0), drawn(3, 1, character=SHARED), drawn(3, 2, character=SHARED)]
    found = drawn_batches(records)
    assert [(batch.indices, batch.extra_rows) for batch in found] == [((0,), 0), ((1, 2), 1)]


@pytest.mark.parametrize(
    "changes",
    [{"reference": EDGES}, {"guidance_end": 0.5}, {"character": SHARED}, {"steps": 3}],
)
def test_drawn_panels_that_have_less_in_common_are_not_mixed(changes):
    assert len(drawn_batches([drawn(2, 0), drawn(2, 1)])) == 1
    assert len(drawn_batches([drawn(2, 0), drawn(2, 1, **changes)])) == 2


def test_a_split_batch_has_no_fillers():
    batch = Batch((3, 4, 3, 5), fillers=frozenset({2}), text_length=154, vae_tiling=True)
    first, second = batch.split(2)
    assert (first.indices, second.indices) == ((3, 4), (5,))
    assert first.panels == [3, 4] and first.text_length == 154 and first.vae_tiling
    assert [part.indices for part in batch.split(2, [5])] == [(5,)]
