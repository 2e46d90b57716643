"""Embeddings of a training set, of which a part is in memory."""

import gc

import pytest
import torch

from storyboard.errors import ResourceError
from storyboard.models import embedding_files
from storyboard.models.embedding_files import KeptEmbeddings
from storyboard.models.text_encoding import Embedding

TOKENS, WIDTH = 4, 8
BYTES = 4 * (TOKENS * WIDTH + WIDTH)  # of one, in fp32


@pytest.fixture
def paths(tmp_path):
    made = [embedding_files.path(tmp_path, str(number)) for number in range(5)]
    for number, path in enumerate(made):
        tokens, pooled = torch.full((TOKENS, WIDTH), float(number)), torch.zeros(WIDTH)
        embedding_files.write(path, Embedding(tokens, pooled, (), TOKENS))
    return made


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    read, found = embedding_files.read_back, []
    monkeypatch.setattr(
        embedding_files, "read_back", lambda path, *rest: (found.append(path), read(path, *rest))[1]
    )
    return found


def test_those_last_used_are_in_memory(paths, reads, monkeypatch):
    monkeypatch.setattr(embedding_files, "MOST_IN_MEMORY", 2 * BYTES)
    kept = KeptEmbeddings(paths, TOKENS)
    assert len(kept) == 5
    assert [kept[index].tokens[0, 0].item() for index in (0, 1, 0, 2, 0, 1)] == [0, 1, 0, 2, 0, 1]
    assert reads == [paths[index] for index in (0, 1, 2, 1)]
    assert kept[torch.tensor(1)] is kept[1] and len(reads) == 4


def test_one_that_is_larger_than_the_memory_for_them_is_read(paths, monkeypatch):
    monkeypatch.setattr(embedding_files, "MOST_IN_MEMORY", 1)
    kept = KeptEmbeddings(paths, TOKENS)
    assert [each.tokens[0, 0].item() for each in kept] == [0, 1, 2, 3, 4]


def test_one_that_is_gone_is_named(paths):
    kept = KeptEmbeddings(paths, TOKENS)
    paths[3].unlink()
    with pytest.raises(ResourceError, match=f"{paths[3].name} does not hold what was written"):
        kept[3]


def test_what_a_training_reads_is_not_forgotten(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_files, "MOST_BYTES", 0)
    kept = KeptEmbeddings(paths[:2], TOKENS)
    embedding_files.forget_oldest(tmp_path, {paths[2]})
    assert [path.exists() for path in paths] == [True, True, True, False, False]
    assert kept[0].tokens[0, 0] == 0
    del kept
    gc.collect()
    embedding_files.forget_oldest(tmp_path, set())
    assert not any(path.exists() for path in paths)
