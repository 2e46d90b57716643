"""A real Ray of two nodes on this machine, each a set of processes of its own."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

RAY = [
    str(Path(sys.executable).with_name("ray")),
    "start",
    "--block",
    "--disable-usage-stats",
    "--node-ip-address=127.0.0.1",
    "--num-cpus=1",
    f"--object-store-memory={200 * 2**20}",
]


class TwoNodes:
    """A head and a worker node with one CPU each, as ``ray start`` starts them.

    Attributes:
        address: Of the head.
        nodes: The head first.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, as paths of sockets must be
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        _, _, port = self.address.partition(":")
        self.nodes: list[subprocess.Popen] = []
        # of tests these are set already; Ray would write a token into the home folder
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        head = f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}"
        try:
            self.add("--head", *head)
            self._wait_for(1)
            self.add(f"--address={self.address}")
            self._wait_for(2)
        except BaseException:
            self.end()
            raise

    def add(self, *arguments: str) -> subprocess.Popen:
        """Start a node; ``end(node)`` ends it as a machine that loses its power."""
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [*RAY, *arguments],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(node)
        return node

    def _wait_for(self, count: int, seconds: float = 300) -> None:
        """Until so many nodes are alive."""
        until = time.monotonic() + seconds
        # a node gives up where it is not up in 30 s, and to connect to one that ended takes minutes
        while time.monotonic() < until and all(node.poll() is None for node in self.nodes):
            code = (
                f"import ray; ray.init('{self.address}', log_to_driver=False); "
                f"raise SystemExit(sum(n['Alive'] for n in ray.nodes()) != {count})"
            )
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(
                    [sys.executable, "-c", code],
                    capture_output=True,
                    check=True,
                    timeout=seconds / 2,
                )
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text() for path in self.folder.glob("node-*.log"))
        raise RuntimeError(f"Ray did not come up:\n{logs}")

    def end(self) -> None:
        """End every process that was started."""
        for node in reversed(self.nodes):
            end(node)
        shutil.rmtree(self.folder)


def end(node: subprocess.Popen) -> None:
    """End ``node`` and all that it started."""
    while found := of_node(node):
        for each in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(found, timeout=5)


def of_node(node: subprocess.Popen) -> list[psutil.Process]:
    """The processes of ``node`` that live: all are in its session."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(each.pid) == node.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found
