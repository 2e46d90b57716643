"""How the threads of matrix products wait for each other, chosen before torch is imported.

By default they spin for milliseconds. Where another program holds one of their cores, all others
spin until that one has its time slice: asleep they would leave it a core. On two cores training and
drawing beside one busy program take half the time asleep, and alone up to 1.4 times as long. A spin
of about 0.1 ms costs drawing at most a fifth and training nothing, and is nearly as good as sleep
where another program comes later (benchmarks/RESULTS.md). What is computed is the same.
"""

import math
import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

OWN = ("OMP_", "GOMP_", "KMP_")  # variables of a host that has chosen
POLICY, COUNT, SPIN = "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"
SHORT = "1000"  # turns of the loop in which GNU's threads spin, 300,000 by default
SMALL = 4  # cores up to which a short spin is set; measured on two
BUSY = 0.5  # cores that other programs use, from which on threads wait asleep
LOOKS, WINDOW = 3, 0.2  # the least of three counts: a short burst is no load; seconds of each
STAT = Path("/proc/stat")
_set: dict[str, str] = {}  # by an earlier call in this process
GROUPS = Path("/sys/fs/cgroup")


def choose(environment: MutableMapping[str, str] | None = None) -> str:
    """Set how threads wait, and how many there are, where this machine's load or quota asks for it.

    A host's own settings stay. Nothing is changed once torch is imported, which reads them once.

    Args:
        environment: Where variables are set; None for ``os.environ``.

    Returns:
        What was chosen and why, in one line.
    """
    environment = os.environ if environment is None else environment
    own = {name: value for name, value in sorted(environment.items()) if name.startswith(OWN)}
    if own and own == _set:
        return "threads: as chosen before"
    if own:
        return f"threads: as this host has set {', '.join(own)}"
    if "torch" in sys.modules:
        return "threads: as they were, torch is loaded already"

    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    line = _choose(environment, allowed)
    _set.clear()
    _set.update({name: value for name, value in environment.items() if name.startswith(OWN)})
    return line


def _choose(environment: MutableMapping[str, str], allowed: list[int]) -> str:
    limit = quota()
    if limit is not None and limit < len(allowed):
        environment[POLICY] = "passive"
        environment[COUNT] = str(max(1, math.floor(limit)))
        return (
            f"threads: {environment[COUNT]}, which wait asleep, as this container may use "
            f"{limit:g} of {len(allowed)} cores"
        )
    used = load(set(allowed))
    if used is None or (used < BUSY and len(allowed) > SMALL):
        return "threads: unchanged, no other program is seen to keep a core busy"
    if used < BUSY:
        environment[SPIN] = SHORT
        return f"threads: they spin shortly ({SPIN}={SHORT}), no other program keeps a core busy"
    environment[POLICY] = "passive"
    return (
        f"threads: they wait asleep ({POLICY}=passive), as other programs use "
        f"{used:.1f} of {len(allowed)} cores"
    )


def load(cores: set[int]) -> float | None:
    """Cores of ``cores`` that are in use while this process sleeps; None where none can tell."""
    if not STAT.is_file() or not cores:
        return None
    counts = []
    for _ in range(LOOKS):
        before = _ticks(cores)
        time.sleep(WINDOW)
        after = _ticks(cores)
        if not after[1]:  # a container's list may be of other cores
            return None
        busy, all_of_them = (end - start for start, end in zip(before, after, strict=True))
        counts.append(len(cores) * busy / max(1, all_of_them))
    return min(counts)


def _ticks(cores: set[int]) -> tuple[int, int]:
    """Ticks that ``cores`` have spent at work, and all ticks, since the machine was started."""
    busy = total = 0
    for line in STAT.read_text(encoding="ascii").splitlines():
        name, *counts = line.split()
        if name.removeprefix("cpu").isdecimal() and int(name.removeprefix("cpu")) in cores:
            ticks = [int(count) for count in counts[:8]]  # guests are counted in the first two
            total += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]  # idle, and waiting for a disk
    return busy, total


def quota() -> float | None:
    """Cores' worth of time that the container may use; None for no limit."""
    limits = []
    for path, read in ((GROUPS / "cpu.max", _version_2), (GROUPS / "cpu", _version_1)):
        try:
            limits.append(read(path))
        except (OSError, ValueError, ZeroDivisionError):  # not there, "max", another form
            continue
    return min((limit for limit in limits if limit > 0), default=None)


def _version_2(path: Path) -> float:
    used, period = path.read_text(encoding="ascii").split()
    return int(used) / int(period)


def _version_1(path: Path) -> float:
    used, period = (
        int((path / f"cpu.cfs_{name}_us").read_text(encoding="ascii"))
        for name in ("quota", "period")
    )
    return used / period
