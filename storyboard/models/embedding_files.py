"""Embeddings on disk: one file a prompt, with a digest by which damage is noticed."""

import hashlib
import json
import operator
import re
import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from storyboard import artifacts
from storyboard.errors import ResourceError
from storyboard.models.text_encoding import Embedding

MOST_BYTES = 4 * 2**30  # of all that is kept for a folder's runs; 2,000 prompts of Kolors
MOST_IN_MEMORY = 2**31  # bytes of a training set's
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")  # what ``path`` gives


def path(folder: Path, prompt: str) -> Path:
    """Where the embedding of ``prompt`` is kept."""
    return folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"


def write(target: Path, embedding: Embedding) -> None:
    """Keep ``embedding`` at ``target``, whole or not at all."""
    tensors = {
        "tokens": embedding.tokens.cpu().contiguous(),
        "pooled": embedding.pooled.cpu().contiguous(),
    }
    chunks = json.dumps(embedding.chunks)
    facts = {"chunks": chunks, "digest": _digest(target, chunks, tensors)}
    # under one key: safetensors writes several in another order in every process
    metadata = {"facts": json.dumps(facts)}
    artifacts.write_atomically(target, serialise(tensors, metadata=metadata))


def read(source: Path, text_length: int) -> Embedding | None:
    """What ``write`` kept at ``source``; None where there is nothing, or something else."""
    if not source.is_file():
        return None
    try:
        with safe_open(source, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            # in memory of their own: a mapped file that is cut off later ends the process
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError, ValueError):
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("chunks"), str):
        return None
    if tensors.keys() != {"tokens", "pooled"}:
        return None
    if facts.get("digest") != _digest(source, facts["chunks"], tensors):
        return None
    chunks = tuple(json.loads(facts["chunks"]))
    return Embedding(tensors["tokens"], tensors["pooled"], chunks, text_length)


def read_back(source: Path, text_length: int) -> Embedding:
    """What was written at ``source``: an embedding is the same whenever it is read.

    Raises:
        ResourceError: The disk did not keep it.
    """
    embedding = read(source, text_length)
    if embedding is None:
        raise ResourceError(
            f"{source} does not hold what was written: check the disk and run this cell again."
        )
    return embedding


class KeptEmbeddings(Sequence[Embedding]):
    """Embeddings on disk, of which those last used are in memory, MOST_IN_MEMORY bytes at most.

    Raises:
        ResourceError: When one is asked for that is gone from the disk.
    """

    def __init__(self, paths: Sequence[Path], text_length: int) -> None:
        self.paths, self.text_length = paths, text_length
        self._bytes = 0
        _IN_USE.add(self)
        self._read: OrderedDict[int, Embedding] = OrderedDict()  # the last used at its end

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        index = operator.index(index)  # a tensor would be another key each time
        if index not in self._read:
            self._read[index] = read_back(self.paths[index], self.text_length)
            self._bytes += _size(self._read[index])
        self._read.move_to_end(index)
        while self._bytes > MOST_IN_MEMORY and len(self._read) > 1:
            _, unused = self._read.popitem(last=False)
            self._bytes -= _size(unused)
        return self._read[index]


_IN_USE: weakref.WeakSet[KeptEmbeddings] = weakref.WeakSet()


def _size(embedding: Embedding) -> int:
    return embedding.tokens.nbytes + embedding.pooled.nbytes


def forget_oldest(root: Path, kept: Collection[Path]) -> None:
    """Delete the oldest embeddings below ``root`` until the rest are at most MOST_BYTES.

    Args:
        kept: What is in use, beside all ``KeptEmbeddings`` of this process.
    """
    kept = {*kept, *(path for each in _IN_USE for path in each.paths)}
    files = [each for each in root.rglob("*.safetensors") if NAME.fullmatch(each.name)]
    facts = sorted((each.stat().st_mtime_ns, each.stat().st_size, each) for each in files)
    size = sum(each for _, each, _ in facts)
    for _, bytes_of_file, file in facts:
        if size <= MOST_BYTES:
            return
        if file not in kept:
            file.unlink(missing_ok=True)
            size -= bytes_of_file


def _digest(target: Path, chunks: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over all that a file holds, and over its place.

    The place says prompt, base and adapter.
    """
    digest = hashlib.sha256(f"{'/'.join(target.parts[-3:])}:{chunks}".encode())
    for name in ("tokens", "pooled"):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
