"""Bad inputs in quantity: each must be handled, or refused in one sentence of ours.

``benchmarks/bad_inputs/<area>.py`` makes them; ``faults_worker`` tries one after another in a
process of its own, each in a fresh folder. Wrong are: an exception of a library, a message of
several lines or without the name of a file or field, a file outside the folder, a hang, memory
over the bound, a process that dies, and what the input's own check calls wrong.
"""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmarks.side_by_side import ROOT

SECONDS = 20  # that an input may take
START = 100  # seconds more for the first input of a process, which imports the libraries
MEMORY = 2 * 2**30  # bytes that an input may add
INPUTS_A_PROCESS = 400  # then a fresh one: what a library keeps does not add up
POLL = 0.05  # seconds between looks at a process's memory
FINE = ("handled", "refused")

# of 2,000 inputs
SHARES = {
    "pictures": 400,
    "captions": 350,
    "lora": 350,
    "bases": 250,
    "png": 250,
    "recipes": 200,
    "words": 200,
}


class Worker:
    """A process that tries inputs; started anew where one of them ended it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.tried = 0
        self.what = ""

    def try_input(self, request: dict) -> dict:
        """The outcome of one input, what it is and how long it took."""
        if self.process is None or self.tried >= INPUTS_A_PROCESS:
            self.stop()
            self._start()
        first, self.tried = self.tried == 0, self.tried + 1
        assert self.process
        before = _memory(self.process.pid)
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()

        deadline = time.monotonic() + SECONDS + (START if first else 0)
        peak, self.what = before, ""
        while True:
            while not select.select([self.process.stdout], [], [], POLL)[0]:
                peak = max(peak, _memory(self.process.pid))
                if not first and peak - before > MEMORY:
                    return self._ended("memory", f"took {(peak - before) / 2**30:.1f} GiB")
                if time.monotonic() > deadline:
                    return self._ended("hang", f"was not done after {SECONDS} s")
            line = self.process.stdout.readline()
            if not line:
                code = self.process.wait()
                return self._ended("died", f"ended its process with exit code {code}")
            answer = json.loads(line)
            if "outcome" in answer:
                slow = answer["seconds"] > SECONDS  # the libraries are imported now: once more
                return self.try_input(request) if first and slow else answer
            self.what = answer["what"]

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # it has ended, and so has every child
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
        self.process = None

    def _start(self) -> None:
        self.tried = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults_worker"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    def _ended(self, outcome: str, message: str) -> dict:
        self.stop()
        return {
            "what": self.what,
            "outcome": outcome,
            "message": message,
            "seconds": float(SECONDS),
        }


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children; 0 where it has ended."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = resident * os.sysconf("SC_PAGE_SIZE")
    return own + sum(_memory(int(child)) for child in children)


def requests(count: int, area: str | None, seed: int, number: int | None) -> Iterator[dict]:
    """``count`` inputs, by areas in their shares; ``number`` names a single one of ``area``."""
    total = sum(SHARES.values())
    done = 0
    for name, share in SHARES.items():
        before, done = done, done + share
        inputs = count * done // total - count * before // total
        if area is not None:
            inputs = count if name == area else 0
        numbers = range(inputs) if number is None else [number] if inputs else []
        for each in numbers:
            yield {"area": name, "seed": seed, "number": each}


def run(
    count: int,
    area: str | None = None,
    seed: int = 0,
    number: int | None = None,
    workers: int = 2,
    listing: Path | None = None,
) -> tuple[int, int]:
    """Try inputs and print what is wrong; the number of inputs, and of wrong ones.

    Args:
        workers: Processes at a time.
        listing: Takes a JSON line for each input, with its message.
    """
    todo: queue.SimpleQueue[dict] = queue.SimpleQueue()
    for request in requests(count, area, seed, number):
        todo.put(request)
    outcomes: list[dict] = []

    with (
        tempfile.TemporaryDirectory(prefix="storyboard-inputs-") as work,
        ThreadPoolExecutor(workers) as pool,
    ):
        for future in [pool.submit(_work, todo, Path(work), outcomes) for _ in range(workers)]:
            future.result()
    if listing:
        lines = [json.dumps(outcome, ensure_ascii=False) for outcome in outcomes]
        listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    _print_counts(outcomes)
    return len(outcomes), sum(outcome["outcome"] not in FINE for outcome in outcomes)


def _work(todo: "queue.SimpleQueue[dict]", work: Path, outcomes: list[dict]) -> None:
    worker = Worker()
    try:
        while True:
            try:
                request = todo.get_nowait()
            except queue.Empty:
                return
            folder = work / f"{request['area']}-{request['number']}"
            outcome = request | worker.try_input(request | {"folder": str(folder)})
            outcomes.append(outcome)
            if outcome["outcome"] not in FINE:
                print(_line(outcome), flush=True)
    finally:
        worker.stop()


def _line(outcome: dict) -> str:
    name = f"{outcome['area']} {outcome['number']} (seed {outcome['seed']})"
    return f"{outcome['outcome']}: {name}: {outcome['what']}: {outcome['message'][:300]!r}"


def _print_counts(outcomes: list[dict]) -> None:
    for area in SHARES:
        own = [outcome for outcome in outcomes if outcome["area"] == area]
        if own:
            counts = Counter(outcome["outcome"] for outcome in own)
            slowest = max(outcome["seconds"] for outcome in own)
            words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
            print(f"inputs: {area}: {words}; the slowest took {slowest:.1f} s", flush=True)
