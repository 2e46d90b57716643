"""Hubs that break off: one sentence, earlier files untouched, a rerun succeeds.

The data set comes from a server that answers as ModelScope, the base from one that answers as
Hugging Face, both over a line that breaks after so many bytes and stays broken.
"""

import shutil
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import faults_kills
from benchmarks.faults_disks import refusal_problems, untouched_problems
from benchmarks.faults_kills import Undisturbed, judged
from benchmarks.faults_place import Place
from benchmarks.faults_run import HUB_BASE, HUB_DATASET, STAGES
from benchmarks.side_by_side import ROOT

SHARES = (0.0, 0.3, 0.9)  # of the bytes of an undisturbed run, after which a line breaks
# by stage, the hub that it needs, and what its refusal names
NEEDS = {
    "collect": ("ModelScope", HUB_DATASET),
    "train": ("Hugging Face", "Hugging Face"),
    "best": ("Hugging Face", "Hugging Face"),
}
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a connection is reset, not ended in order
BUFFER = 65536


class Line:
    """Passes connections on to a server on this machine until it breaks.

    Attributes:
        url: Where it listens.
        limit: Bytes to clients after which it breaks; None for never.
        passed: Bytes that it passed on to clients.
    """

    def __init__(self, server: str) -> None:
        self.limit: int | None = None
        self.passed = 0
        self._lock = threading.Lock()
        address = (urlsplit(server).hostname, urlsplit(server).port)
        line = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if line.is_broken:
                    return line.reset(self.request)
                with socket.create_connection(address) as upstream:
                    up = threading.Thread(target=_pump, args=(self.request, upstream), daemon=True)
                    up.start()
                    line.bring(upstream, self.request)
                    _end(upstream)
                return None

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def is_broken(self) -> bool:
        return self.limit is not None and self.passed >= self.limit

    def mend(self, limit: int | None = None) -> None:
        """Pass on again, until it breaks after ``limit`` bytes."""
        self.passed, self.limit = 0, limit

    def bring(self, upstream: socket.socket, client: socket.socket) -> None:
        """Pass on what the server sends, and break where the limit is."""
        while content := _received(upstream):
            with self._lock:
                room = len(content) if self.limit is None else max(self.limit - self.passed, 0)
                self.passed += min(len(content), room)
            try:
                client.sendall(content[:room])
            except OSError:
                return
            if room < len(content):
                self.reset(client)
                return

    def reset(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        client.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(BUFFER)
    except OSError:
        return b""


def _end(upstream: socket.socket) -> None:
    """Let the server come to the end of its answer."""
    try:
        upstream.shutdown(socket.SHUT_WR)
    except OSError:
        return
    while _received(upstream):
        pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    while content := _received(source):
        try:
            target.sendall(content)
        except OSError:
            return


@dataclass(frozen=True)
class Hubs:
    """Lines to the hubs by their names, and a place whose runs use them.

    Attributes:
        caches: Folder that the hubs' clients fetch into.
    """

    lines: dict[str, Line]
    place: Place
    caches: Path

    def fresh(self, outputs: Path | None = None, stages: list[str] | None = None) -> None:
        """Nothing fetched; ``outputs`` as ``Place.fresh`` takes it."""
        shutil.rmtree(self.caches, ignore_errors=True)
        self.place.fresh(outputs, stages)


@contextmanager
def hubs(dataset: Path, work: Path) -> Iterator[Hubs]:
    """Two hubs that have ``dataset`` and ``mini``."""
    from tests.dataset_hub_server import DatasetHub
    from tests.huggingface_server import HuggingFace

    for repository, source in ((HUB_DATASET, dataset), (HUB_BASE, ROOT / "models" / "mini")):
        shutil.copytree(source, work / "served" / repository)
    with ExitStack() as stack:
        lines = {}
        servers = (("ModelScope", DatasetHub), ("Hugging Face", HuggingFace))
        for name, server in servers:
            running = server(work / "served")
            stack.callback(running.close)
            lines[name] = Line(running.url)
            stack.callback(lines[name].close)
        place = Place(work / "place", Path(HUB_DATASET))
        caches = place.folder / "hubs"
        environment = {
            "MODELSCOPE_ENDPOINT": lines["ModelScope"].url,
            "HF_ENDPOINT": lines["Hugging Face"].url,
            "HF_HOME": str(caches / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "MODELSCOPE_CACHE": str(caches / "modelscope"),
            "STORYBOARD_CACHE": str(caches / "storyboard"),
        }
        place = replace(place, environment=environment, options=("--hub",))
        yield Hubs(lines, place, caches)


def run_hubs(dataset: Path, work: Path) -> tuple[int, int]:
    """Break the line to a hub in several stages; the number of tries, and of good ends."""
    results = []
    with hubs(dataset, work / "hubs") as both:
        both.fresh()
        reference = faults_kills.undisturbed(both.place)
        sizes = {name: line.passed for name, line in both.lines.items()}
        print(f"hubs: an undisturbed run brings bytes {sizes}", flush=True)
        for stage, (name, word) in NEEDS.items():
            for share in SHARES:
                both.lines[name].mend(limit=int(share * sizes[name]))
                problems = _broken(stage, both.lines[name], word, reference, both)
                result = "; ".join(problems) or "one sentence, then equal"
                print(f"hubs: {stage}, {name} breaks at {share:.0%}: {result}", flush=True)
                results.append(not problems)
    return len(results), sum(results)


def _broken(stage: str, line: Line, word: str, reference: Undisturbed, both: Hubs) -> list[str]:
    place = both.place
    before = list(STAGES[: STAGES.index(stage)])
    both.fresh(reference.outputs, before)
    written = place.written(before)
    refused = place.run()
    line.mend()
    problems = refusal_problems(refused, (word,)) + untouched_problems(place, written)
    return problems + judged(place.run(), place, reference.tree)
