"""Latents and text embeddings of a large set, made on all machines before training begins."""

import functools
import io
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from storyboard import show
from storyboard.cluster import Cluster
from storyboard.models import conditioning
from storyboard.models.run import Run
from storyboard.training import cache, making
from storyboard.training.defaults import Choice
from storyboard.training.encoding import Encoder, Parts, shares
from storyboard.training.given import Given, choice_here, working

SHARE = 256  # pictures, encoded by one worker


@dataclass(frozen=True)
class Chosen:
    """What is to be trained, and what is to be made on all machines before.

    Attributes:
        texts: Whose embeddings are missing, as keys of ``conditioning.encode``; none if they are
            few.
        latents: Whether they are missing, and many.
    """

    choice: Choice
    texts: list[str]
    latents: bool


def chosen(given: Given, choice: Choice, few: int) -> Chosen:
    """On a machine that has the base: what is missing.

    Args:
        few: Pictures, or texts, that are left to the first worker of training.
    """
    captions, run = given.captions, choice.run
    texts: list[str] = []
    if len(captions) > few:
        prompts = making.prompts(given.story, run)
        texts = conditioning.missing(run, prompts, cache.texts_of(captions))
    many = len(captions) > few and not cache.are_made(captions, run)
    return Chosen(choice, texts if many or len(texts) > few else [], many)


def prepare(
    cluster: Cluster, given: Given, todo: Chosen, workers: int, gpu: bool, cpus: int
) -> None:
    """Have all workers make what the first one would make alone as training begins.

    Args:
        workers: At most.
        gpu: Each has a GPU of its own.
        cpus: That each has.

    Raises:
        StoryboardError: As of ``cache.prepare``, and ``Cluster.map``.
    """
    captions = given.captions
    # all that is needed to make them
    own = replace(given, captions=replace(captions, rows=[]), story=None, events=None)
    arguments = {"given": own, "threads": cpus if gpu else None}
    options: dict[str, Any] = {"gpu": gpu, "cpus": cpus, "most_workers": workers}

    # text encoders and VAE are not in memory together
    if todo.texts:
        count = cluster.workers(len(todo.texts), 1, gpu, cpus, workers)
        print(f"train: caching {len(todo.texts)} text embeddings on the cluster", flush=True)
        parts = [{"texts": todo.texts[first::count]} for first in range(count)]
        with closing(cluster.map(parts, CacheMaker, arguments, **options)) as made:
            for row in made:
                print(row["printed"], end="", flush=True)

    if todo.latents:
        all_shares = shares(captions, cache.texts_of(captions), SHARE)
        rows = [{"share": each} for each in all_shares]
        options["blocks_per_worker"] = len(rows)
        with closing(cluster.map(rows, CacheMaker, arguments, **options)) as made:
            cache.make_latents(captions, todo.choice.run, _watched(made, len(rows)))


def _watched(made: Iterator[Mapping[str, Any]], count: int) -> Iterator[Parts]:
    with show.Live("train: cache latents", count) as live:
        for number, row in enumerate(made, 1):
            print(row["printed"], end="", flush=True)
            yield row["parts"]
            live.step(number)


class CacheMaker:
    """In a process of a cluster: encodes texts, and pictures.

    Args:
        threads: Of torch; None leaves them.
    """

    def __init__(self, given: Given, threads: int | None) -> None:
        self.given = given
        if threads:
            import torch

            torch.set_num_threads(threads)

    @functools.cached_property
    def run(self) -> Run:
        """On this machine."""
        return choice_here(self.given).run

    @functools.cached_property
    def encode(self) -> Encoder:
        return Encoder(self.run)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        printed, made = io.StringIO(), None
        with working(self.given, printed):
            if "share" in row:
                made = self.encode(row["share"])
            else:
                conditioning.keep(self.run, row["texts"])
        return {"parts": made, "printed": printed.getvalue()}
