"""Disks that are full or read-only at every stage: one sentence, nothing lost, a rerun succeeds.

The disk is a small tmpfs. Where mounting is not allowed, a bound on the size of files
(RLIMIT_FSIZE) stands in for a full one, and the read-only one is left out.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults_kills import Undisturbed, judged
from benchmarks.faults_place import Outcome, Place, files_of
from benchmarks.faults_run import REFUSED, STAGES

SIZE = 640  # MiB of the tmpfs; training asks for 520 MB beside what is there
PAGE = 4096  # bytes that a tmpfs gives at once
SHARES = (0.0, 0.3, 0.7)  # of what a stage writes, for which there is room
FILLER = "filler"


def can_mount(folder: Path) -> bool:
    """Whether a tmpfs may be mounted here."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        return False
    return subprocess.run(["umount", str(folder)], check=False).returncode == 0


def _mount(*options: str) -> int:
    return subprocess.run(["mount", *options], check=False, stderr=subprocess.DEVNULL).returncode


@contextmanager
def small_disk(place: Place) -> Iterator[None]:
    """``outputs`` of ``place`` is a tmpfs of its own."""
    place.outputs.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(place.outputs))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place.outputs)], check=False)


def run_disks(
    stages: list[str], shares: tuple[float, ...], reference: Undisturbed, dataset: Path, work: Path
) -> tuple[int, int]:
    """Try every stage on full and read-only disks; the number of tries, and of good ends."""
    place = Place(work / "disks" / "place", dataset)
    mounts = can_mount(work / "mount")
    what = "a tmpfs" if mounts else "a bound on the size of files (mounting is not allowed here)"
    print(f"disks: the small disk is {what}", flush=True)
    results = []
    for stage in stages:
        for share in shares:
            problems = (_full if mounts else _bounded)(stage, share, reference, place)
            print(f"disks: {stage}, room for {share:.0%}: {_shown(problems)}", flush=True)
            results.append(not problems)
        if mounts:
            problems = _read_only(stage, reference, place)
            print(f"disks: {stage}, read-only: {_shown(problems)}", flush=True)
            results.append(not problems)
    return len(results), sum(results)


def _shown(problems: list[str]) -> str:
    return "; ".join(problems) or "one sentence, then equal"


def _before(stage: str) -> list[str]:
    return list(STAGES[: STAGES.index(stage)])


def _needed(stage: str, reference: Undisturbed) -> int:
    """Bytes on a tmpfs of what ``stage`` writes."""
    sizes = [file.stat().st_size for file in files_of(reference.outputs, stage)]
    return sum(-(-size // PAGE) * PAGE for size in sizes)


def _full(stage: str, share: float, reference: Undisturbed, place: Place) -> list[str]:
    place.fresh()
    with small_disk(place):
        place.take(reference.outputs, _before(stage))
        disk = os.statvfs(place.outputs)
        free = disk.f_bavail * disk.f_frsize - int(share * _needed(stage, reference))
        with (place.outputs / FILLER).open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, free)
        before = place.written(_before(stage))
        refused = place.run("--believe-in-room")
        problems = refusal_problems(refused, ("outputs", "became full")) + untouched_problems(
            place, before
        )
        (place.outputs / FILLER).unlink()
        return problems + judged(place.run(), place, reference.tree)


def _bounded(stage: str, share: float, reference: Undisturbed, place: Place) -> list[str]:
    """As ``_full``: files may have at most a share of the largest that the stage writes."""
    place.fresh(reference.outputs, _before(stage))
    sizes = [file.stat().st_size for file in files_of(reference.outputs, stage)]
    before = place.written(_before(stage))
    refused = place.run("--largest-file", str(int(share * max(sizes))))
    problems = refusal_problems(refused, ("outputs", "File too large")) + untouched_problems(
        place, before
    )
    return problems + judged(place.run(), place, reference.tree)


def _read_only(stage: str, reference: Undisturbed, place: Place) -> list[str]:
    place.fresh()
    with small_disk(place):
        place.take(reference.outputs, _before(stage))
        _mount("-o", "remount,ro", str(place.outputs))
        refused = place.run()
        _mount("-o", f"remount,rw,size={SIZE}m", str(place.outputs))
        problems = refusal_problems(refused, ("outputs", "Read-only file system"))
        return problems + judged(place.run(), place, reference.tree)


def refusal_problems(outcome: Outcome, words: tuple[str, ...]) -> list[str]:
    """What is wrong with a refusal: it is one sentence that has ``words``."""
    line = outcome.last_line
    if outcome.code != REFUSED:
        return [f"ended with {outcome.code}: {line}"]
    if not all(word in line for word in words):
        return [f"it said: {line}"]
    return []


def untouched_problems(place: Place, before: dict[str, int]) -> list[str]:
    """What a refused run did to the files that were there ``before``, and left half made."""
    problems = []
    names = {Path(name) for name in before}
    changed = [
        name for name in names if not name.exists() or name.stat().st_mtime_ns != before[str(name)]
    ]
    if changed:
        problems.append(f"earlier files are not as they were: {changed[0]}")
    if (place.outputs / ".storyboard").exists():
        problems.append("half-made files were kept")
    return problems
