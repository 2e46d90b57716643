"""Pictures on the card: drawn by all cores while the training goes on, cropped and turned there.

Worker processes render drawings into memory that they share with the training process, which moves
what is ready to the card.
"""

import mmap
import multiprocessing
import os
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import Pool

import numpy as np
import torch

from storyboard.compat.opencv import cv2
from storyboard.rendering.edges import edges
from tools.card import drawings, strokes
from tools.card.drawings import Pack

CHUNK = 32  # pictures a task
HELD_OUT = 24  # drawings at the start of each set, for measuring
ART = "art"  # sets whose pictures have captions begin so
HELD_SET = "held-"  # sets for measuring alone begin so
STROKES = "strokes"
VIEWS = 2  # pictures of a drawing without captions: whole, and a detail
PAPERS = ((255, 255, 255),) * 6 + ((182, 227, 244), (255, 243, 176), (43, 34, 56), (217, 83, 79))
# of a batch, by the beginning of a set's name
SHARES = {"art": 0.3, "clip": 0.25, "emoji": 0.1, "style": 0.17, STROKES: 0.18}

_sources: dict[str, "Source"] = {}  # what forked workers know


def shared(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 zeros that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)


@dataclass
class Source:
    """One set: its drawings, pictures in shared memory, and how far they are drawn and moved."""

    name: str
    texts: list[str] | range
    side: int
    pixels: np.ndarray  # uint8 (n, side, side, 3)
    edges: np.ndarray | None = None  # uint8 (n, side, side / 8), for sets with captions
    ready: int = 0
    moved: int = 0
    card: torch.Tensor | None = None

    @property
    def views(self) -> int:
        return 1 if self.name.startswith((ART, STROKES, HELD_SET)) else VIEWS

    @property
    def held_out(self) -> int:
        return HELD_OUT * self.views

    @property
    def first(self) -> int:
        """So many pictures must be there before the training begins."""
        return min(len(self.pixels), self.held_out + CHUNK)

    def draw(self, index: int) -> np.ndarray:
        """uint8 (side, side, 3)."""
        text = self.texts[index // self.views]
        if self.name == STROKES:
            return drawings.whole(strokes.drawing(text), self.side, PAPERS[0])
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), index])
        paper = PAPERS[rng.integers(len(PAPERS))]
        if index % self.views == 0:
            return drawings.whole(text, self.side, paper)
        return drawings.detail(text, self.side, paper, rng.uniform(1.3, 2.2), rng)


def _draw(task: tuple[str, int, int]) -> tuple[str, int, str]:
    """Draw a chunk; returns the set, where the chunk ends, and what failed in it, if anything."""
    name, start, stop = task
    source, failure = _sources[name], ""
    for index in range(start, stop):
        try:
            picture = source.draw(index)
        except (
            BaseException
        ) as error:  # resvg's panics are no Exceptions; one must not end a worker
            failure = f"{name} {index}: {error}"
            picture = drawings.whole(strokes.drawing(index), source.side, PAPERS[0])
        source.pixels[index] = picture
        if source.edges is not None:
            source.edges[index] = np.packbits(edges(picture) > 0, axis=1)
    return name, stop, failure


def workers(count: int) -> Pool:
    """Processes that know what this one knows now; call it once, and before CUDA is used."""
    return multiprocessing.get_context("fork").Pool(count, _begin_worker)


def _begin_worker() -> None:
    os.nice(5)  # the compiler goes first
    cv2.setNumThreads(1)


class Gallery:
    """All sets, and batches of them on the card.

    Args:
        pack: Drawings; every set that has attributes is named ``art...``.
        side: Of a picture, in pixels.
        strokes_count: Procedural drawings beside the pack's.
        limit: Drawings of a set with captions at most, of others a fifth; 0 for all.
    """

    def __init__(self, pack: Pack, side: int, strokes_count: int, limit: int, seed: int) -> None:
        self.side = side
        self.rng = np.random.default_rng(seed)
        texts: dict[str, list[str] | range] = dict(pack.drawings)
        texts[STROKES] = range(strokes_count)
        for name, drawn in texts.items():
            few = limit if name.startswith(ART) else limit // 5
            self._add(name, drawn[: few or len(drawn)])
        self.sources = dict(_sources)
        self.failures: list[str] = []

    def begin(self, pool: Pool) -> None:
        """Draw, in workers that were forked after this gallery was made."""
        drawn = pool.imap(_draw, self._tasks())
        threading.Thread(target=self._collect, args=(drawn,), daemon=True).start()

    def _add(self, name: str, texts: list[str] | range) -> None:
        source = Source(name, texts, self.side, np.empty(0, np.uint8))
        count = len(texts) * source.views
        source.pixels = shared((count, self.side, self.side, 3))
        if name.startswith(ART):
            source.edges = shared((count, self.side, self.side // 8))
        _sources[name] = source

    def _tasks(self) -> list[tuple[str, int, int]]:
        """Chunks, so that all sets grow at the same pace."""
        tasks = []
        for name, source in self.sources.items():
            total = len(source.pixels)
            for start in range(0, total, CHUNK):
                # what is measured with comes first, and something to begin with
                part = 0.0 if start < source.first else start / total
                tasks.append((part, name, start, min(start + CHUNK, total)))
        return [task[1:] for task in sorted(tasks)]

    def _collect(self, drawn: Iterator[tuple[str, int, str]]) -> None:
        for name, stop, failure in drawn:
            self.sources[name].ready = stop
            if failure:
                self.failures.append(failure)

    def to_card(self, device: torch.device) -> float:
        """Move what was drawn since the last call; the share of all that is there now."""
        there = total = 0
        for source in self.sources.values():
            if source.card is None:
                source.card = torch.empty(source.pixels.shape, dtype=torch.uint8, device=device)
            ready = source.ready
            if ready > source.moved:
                fresh = torch.from_numpy(source.pixels[source.moved : ready])
                source.card[source.moved : ready] = fresh.to(device)
                source.moved = ready
            there += source.moved
            total += len(source.pixels)
        return there / total

    def held_out(self, name: str) -> torch.Tensor:
        """uint8 (n, side, side, 3) on the card: what no batch of this set holds."""
        source = self.sources[name]
        return source.card[: min(source.moved, source.held_out)]

    def batch(self, size: int) -> torch.Tensor:
        """float32 (size, 3, side, side) in [-1, 1] of all sets that are drawn far enough."""
        able = [s for s in self._trained_on() if s.moved > s.held_out]
        weights = np.array([self._share(source) for source in able])
        counts = self.rng.multinomial(size, weights / weights.sum())
        parts = []
        for source, count in zip(able, counts, strict=True):
            if count:
                rows = self.rng.integers(source.held_out, source.moved, count)
                chosen = torch.from_numpy(rows).to(source.card.device)
                parts.append(self._turned(as_floats(source.card[chosen]), source))
        return torch.cat(parts)

    def _trained_on(self) -> list[Source]:
        return [s for s in self.sources.values() if not s.name.startswith(HELD_SET)]

    def _share(self, source: Source) -> float:
        """A kind's share of a batch, divided among its sets by their size."""
        kind = next(kind for kind in SHARES if source.name.startswith(kind))
        alike = [s for s in self._trained_on() if s.name.startswith(kind)]
        return SHARES[kind] * len(source.pixels) / sum(len(s.pixels) for s in alike)

    def _turned(self, pictures: torch.Tensor, source: Source) -> torch.Tensor:
        """Mirrored; without captions also turned and in other colours, half of the time."""
        if self.rng.random() < 0.5:
            pictures = pictures.flip(3)
        if source.name.startswith(ART) or self.rng.random() < 0.5:
            return pictures
        if self.rng.random() < 0.3:
            pictures = -pictures
        channels = torch.from_numpy(self.rng.permutation(3)).to(pictures.device)
        return torch.rot90(pictures[:, channels], int(self.rng.integers(4)), (2, 3))

    def wait(self, names: list[str], seconds: float) -> None:
        """Until these sets are drawn, or so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and any(
            self.sources[name].ready < len(self.sources[name].pixels) for name in names
        ):
            time.sleep(0.1)


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def unpacked(bits: torch.Tensor) -> torch.Tensor:
    """What ``numpy.packbits`` packed along the last axis: uint8 (..., w / 8) -> float (..., w)."""
    shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> shifts) & 1).flatten(-2).float()
