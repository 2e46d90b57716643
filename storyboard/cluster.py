"""A stage's rows on several machines or GPUs: Ray schedules, retries and replaces workers.

A stage hands ``Cluster.map`` its rows and a class whose instances work on them. Every machine sees
the output folder at the same path (``docs/en/scale.md``).
"""

import contextlib
import hashlib
import math
import platform
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from storyboard import artifacts
from storyboard.compat import ray as compat
from storyboard.errors import ResourceError, SettingsError, StoryboardError, brief, reason

# what decides on pictures and weights
PACKAGES = ("torch", "diffusers", "transformers", "peft", "diffsynth", "py-data-juicer", "pillow")
BLOCKS_PER_WORKER = 4  # so that a slow one does not keep the others waiting at the end
ROWS_PER_BLOCK = 1000  # at most: a block is done again where its worker dies
# after so many deaths of its workers the rest is given up; a story is given up sooner
RETRIES = 8
ROW = "row"  # Ray Data's column
Row = dict[str, Any]


def check_address(address: str | None) -> None:
    """Raise SettingsError unless it is ``"local"``, ``"auto"``, ``"host:port"`` or None."""
    if address is None or address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not port.isdecimal() or "/" in host:
        raise SettingsError(
            f'cluster={brief(address)} must be "local", "auto" (the Ray that runs on this '
            'machine), the "host:port" of its head, or None.'
        )


@dataclass(frozen=True)
class Cluster:
    """A Ray that is connected.

    Attributes:
        nodes: Machines.
        cpus, gpus: Of all machines together, as Ray counts them.
    """

    ray: ModuleType
    nodes: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.nodes} machines, {self.cpus} CPUs{gpus}"

    def workers(
        self,
        rows: int,
        rows_at_once: int,
        gpu: bool,
        cpus: int = 1,
        most_workers: int | None = None,
    ) -> int:
        """How many workers ``map`` starts at most."""
        slots = self.gpus if gpu else sum(each // cpus for each in self._cpus_of_nodes())
        slots = min(slots, most_workers or slots)
        return max(1, min(slots, math.ceil(rows / rows_at_once)))

    def cpus_for(self, threads: int) -> int:
        """CPUs that a worker of so many threads can ask for: those of the largest machine."""
        return max(1, min(threads, max(self._cpus_of_nodes())))

    def _cpus_of_nodes(self) -> list[int]:
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return [int(node["Resources"].get("CPU", 0)) for node in nodes]

    def map(
        self,
        rows: Sequence[Row],
        worker: type,
        arguments: Mapping[str, Any],
        *,
        rows_at_once: int = 1,
        gpu: bool = False,
        cpus: int = 1,
        blocks_per_worker: int = BLOCKS_PER_WORKER,
        most_workers: int | None = None,
    ) -> Iterator[Row]:
        """What ``worker(**arguments)`` makes of each row, called with it, in the rows' order.

        A worker that dies is replaced, and its rows are done again.

        Args:
            rows: Of what Ray can hand to other processes, as ``arguments`` and what is returned.
            worker: Made once in each process of Ray's.
            rows_at_once: Given to a worker together.
            gpu: Each worker has a GPU of its own, instead of CPUs.
            cpus: Of each worker; a machine with fewer has none.
            blocks_per_worker: Into so many parts a worker's share is cut at least, where there are
                rows enough; what is made of a part comes together.
            most_workers: None has as many as there is room for.

        Raises:
            StoryboardError: As a worker raised it.
            ResourceError: Workers died at the same rows RETRIES times, or Ray fails otherwise.
        """
        if not rows:
            return
        count = self.workers(len(rows), rows_at_once, gpu, cpus, most_workers)
        blocks = max(count * blocks_per_worker, math.ceil(len(rows) / ROWS_PER_BLOCK))
        blocks = min(blocks, math.ceil(len(rows) / rows_at_once))
        with compat.data() as data:
            given = data.from_items(
                [{ROW: _Whole(row)} for row in rows], override_num_blocks=blocks
            )
            made = compat.map_batches(
                given,
                _Batches,
                RETRIES,
                fn_constructor_args=(worker, dict(arguments)),
                batch_size=rows_at_once,
                compute=data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
                num_cpus=0 if gpu else cpus,
                num_gpus=1 if gpu else 0,
            )
            made.set_name(worker.__name__)  # in Ray's dashboard
            for each in self._translated(made.iter_rows()):
                row = each[ROW].content
                if isinstance(row, StoryboardError):
                    raise row
                yield row

    def _translated(self, rows: Iterator[Any]) -> Iterator[Any]:
        """``rows``, with errors of Ray's as one of ours; those of a worker's code stay."""
        try:
            yield from rows
        except self.ray.exceptions.RayTaskError:
            raise
        except self.ray.exceptions.RayError as error:
            raise ResourceError(
                f"The cluster could not go on ({reason(error)}): look after the memory "
                "and the disks of its machines, and run this cell again."
            ) from error


@dataclass(frozen=True)
class _Whole:
    """A row that Ray takes as one value: in columns None, lists and whole numbers would change."""

    content: Row | StoryboardError


class _Batches:
    """Calls a worker with the rows of Ray Data's batches, one after another."""

    def __init__(self, worker: type, arguments: Mapping[str, Any]) -> None:
        self.worker = worker(**arguments)

    def __call__(self, batch: Mapping[str, Sequence[_Whole]]) -> dict[str, list[_Whole]]:
        return {ROW: [_Whole(self._made(row.content)) for row in batch[ROW]]}

    def _made(self, row: Row) -> Row | StoryboardError:
        # as a value: Ray would raise it as an error of its own, without the one that it was
        try:
            return self.worker(row)
        except StoryboardError as error:
            print(error, file=sys.stderr, flush=True)  # for Ray's dashboard
            return error


@contextlib.contextmanager
def connected(address: str, folder: Path) -> Iterator[Cluster]:
    """The Ray at ``address``, as ``Settings.cluster``.

    Raises:
        SettingsError: Ray is not installed, none answers there, or a machine has other versions of
            what decides on the result.
        ResourceError: A machine does not see ``folder``.
    """
    with compat.connected(address) as ray:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources = ray.cluster_resources()
        _check_nodes(ray, nodes, folder)
        yield Cluster(ray, len(nodes), int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def connected_if(
    address: str | None, folder: Path
) -> contextlib.AbstractContextManager[Cluster | None]:
    """As ``connected``; nothing is done where ``address`` is None."""
    return contextlib.nullcontext() if address is None else connected(address, folder)


def _facts() -> dict[str, str]:
    """Of this process: what must be the same on every machine."""
    python = platform.python_version()
    return {"python": python, "storyboard": _source(), **artifacts.versions(*PACKAGES)}


def _source() -> str:
    """Of this package's modules: a checkout has no version of its own."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _look(marker: str) -> tuple[dict[str, str], bool]:
    """The facts of a machine, and whether it sees the file ``marker``."""
    return _facts(), Path(marker).is_file()


def _check_nodes(ray: ModuleType, nodes: Sequence[dict], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder.resolve() / f".cluster-{uuid.uuid4().hex}"
    marker.touch()
    try:
        look = ray.remote(num_cpus=0)(_look)
        strategies = [compat.on_node(node["NodeID"]) for node in nodes]
        asked = [look.options(scheduling_strategy=each).remote(str(marker)) for each in strategies]
        found = _answers(ray, nodes, asked)
    finally:
        marker.unlink()

    own = _facts()
    for node, (facts, sees) in zip(nodes, found, strict=True):
        name = node["NodeManagerHostname"]
        if not sees:
            raise ResourceError(
                f"The machine {name} of the cluster does not see {folder.resolve()}: set output to "
                "a folder that is mounted at the same path on every machine."
            )
        other = [f"{key} {facts.get(key)} for {own[key]}" for key in own if facts[key] != own[key]]
        if other:
            raise SettingsError(
                f"The machine {name} of the cluster has {', '.join(other)}: install the same "
                "versions there, or pictures would differ."
            )


def _answers(ray: ModuleType, nodes: Sequence[dict], asked: Sequence) -> list:
    answers = []
    for node, each in zip(nodes, asked, strict=True):
        try:
            answers.append(ray.get(each))
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-200:]
            raise SettingsError(
                f"The machine {node['NodeManagerHostname']} of the cluster cannot run storyboard "
                f"({reason}): install it there, in the Python that ray start is run with."
            ) from error
    return answers
