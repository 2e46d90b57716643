"""Latents and text embeddings of a large set, made on all machines before training begins."""

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from storyboard import show
from storyboard.cluster import Cluster
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.prompts import literal
from storyboard.training import cache, making
from storyboard.training.encoding import Encoder, Parts, Share
from storyboard.training.given import Given, choice_here, working

PICTURES_HERE = 1000  # of a set that one worker caches sooner than others have started


def prepare(cluster: Cluster, given: Given, gpu: bool, cpus: int) -> None:
    """Have all workers make what the first one would make alone as training begins.

    Args:
        gpu, cpus: As of ``Cluster.map``.

    Raises:
        StoryboardError: As of ``cache.prepare``.
    """
    assert given.choice is not None
    captions, run = given.captions, given.choice.run
    if len(captions) <= PICTURES_HERE or cache.are_kept(captions, run):
        return
    print(f"train: caching text embeddings of {len(captions)} pictures on the cluster", flush=True)
    options: dict[str, Any] = {"gpu": gpu, "cpus": cpus}

    # 1. text encoders and VAE are not in memory together
    texts = [*making.prompts(given.story, run), *map(literal, cache.texts_of(captions))]
    count = cluster.workers(len(texts), 1, gpu, cpus)
    parts = [{"texts": texts[first::count]} for first in range(count)]
    for row in cluster.map(parts, CacheMaker, {"given": given}, **options):
        print(row["printed"], end="", flush=True)

    # 2. a share of pictures at a time
    def encode(shares: Sequence[Share]) -> Iterator[Parts]:
        rows = [{"share": each} for each in shares]
        made = cluster.map(
            rows, CacheMaker, {"given": given}, blocks_per_worker=len(rows), **options
        )
        with show.Live("train: cache latents", len(rows)) as live:
            for number, row in enumerate(made, 1):
                yield row["parts"]
                live.step(number)

    cache.latents(captions, run, encode)


class CacheMaker:
    """In a process of a cluster: encodes texts, and pictures."""

    def __init__(self, given: Given) -> None:
        self.given = given

    @functools.cached_property
    def run(self) -> Run:
        """On this machine."""
        return choice_here(self.given).run

    @functools.cached_property
    def encode(self) -> Encoder:
        return Encoder(self.run)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        printed = io.StringIO()
        with working(self.given, printed):
            if "share" in row:
                return {"parts": self.encode(row["share"])}
            # nothing is forgotten for it, as others keep theirs in the same folder
            conditioning.encode_ahead(self.run, row["texts"], None)
        return {"printed": printed.getvalue()}
