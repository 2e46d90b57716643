"""Runs that are ended at all stages, two runs at once, and damaged files.

Each is run to its end again, and must end as a run that nothing disturbed: byte for byte, no
finished stage done again, no file or process left over.
"""

import json
import random
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import faults_place
from benchmarks.faults_place import PATHS, Outcome, Place
from benchmarks.faults_run import STAGES

SIGNALS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGINT", "SIGTERM")  # in turn
DOUBLED = 4  # every so many kills the run after one is killed too
# of the kills, by stage; the rest of the stages are short
SHARES = {
    "collect": 6,
    "clean": 6,
    "train": 14,
    "render": 8,
    "base": 4,
    "score": 4,
    "best": 6,
    "bundle": 2,
}


@dataclass(frozen=True)
class Undisturbed:
    """What a run that nothing disturbed left and did.

    Attributes:
        outputs: Folder.
        tree: Names and digests in there.
        events: Of each stage.
    """

    outputs: Path
    tree: dict[str, str]
    events: dict[str, int]


def undisturbed(place: Place) -> Undisturbed:
    """Run once without a fault, in ``place``; what it left is moved beside it."""
    place.fresh()
    outcome = place.run()
    if outcome.code:
        raise SystemExit(
            f"The undisturbed run ended with exit code {outcome.code}:\n{outcome.text}"
        )
    events = json.loads(place.log.read_text(encoding="utf-8").splitlines()[-1])
    outputs = place.outputs.rename(place.folder.with_name("undisturbed"))
    return Undisturbed(outputs, faults_place.tree(outputs), events)


@dataclass(frozen=True)
class Kill:
    """Signals that are sent one after another, each to the run that follows the one before."""

    points: tuple[tuple[str, int, str], ...]

    def __str__(self) -> str:
        return ", then ".join(f"{name} at {stage} {number}" for stage, number, name in self.points)


def kills(count: int, events: dict[str, int], seed: int) -> list[Kill]:
    """``count`` signals over all stages, by SHARES, evenly over the events of each."""
    rng = random.Random(seed)
    stages = [stage for stage, share in SHARES.items() for _ in range(share)]
    chosen = sorted(
        (stages[index * len(stages) // count] for index in range(count)), key=STAGES.index
    )
    points = []
    for index, stage in enumerate(chosen):
        of_stage = chosen.count(stage)
        nth = index - chosen.index(stage)
        low, high = (events[stage] * part // of_stage for part in (nth, nth + 1))
        number = rng.randint(low + 1, max(low + 1, high))
        points.append((stage, number, SIGNALS[index % len(SIGNALS)]))

    found = []
    while points:
        point = points.pop(0)
        if points and points[0][0] == point[0] and len(found) % DOUBLED == DOUBLED - 1:
            _, _, name = points.pop(0)
            # the run after it has less to do; at its first events the state is read and cleared
            found.append(Kill((point, (point[0], rng.randint(1, 6), name))))
        else:
            found.append(Kill((point,)))
    return found


def run_kills(
    chosen: Sequence[Kill], reference: Undisturbed, dataset: Path, work: Path, workers: int
) -> int:
    """Try ``chosen``; prints what is not equal; the number of signals whose runs are."""
    places = [Place(work / f"kills-{index}" / "place", dataset) for index in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        free = list(places)

        def tried(kill: Kill) -> int:
            place = free.pop()
            try:
                problems = _tried(kill, reference, place)
            finally:
                free.append(place)
            print(f"kills: {kill}: {'; '.join(problems) or 'equal'}", flush=True)
            return 0 if problems else len(kill.points)

        return sum(pool.map(tried, chosen))


def _tried(kill: Kill, reference: Undisturbed, place: Place) -> list[str]:
    first, single = kill.points[0][0], len(kill.points) == 1
    done = list(STAGES[: STAGES.index(first)])
    # stages before it are taken from the undisturbed run, which they equal byte for byte
    place.fresh(reference.outputs, done)
    problems = []
    for stage, chosen, name in kill.points:
        number = chosen
        outcome = _ended_at(place, stage, number, name)
        while single and outcome.code == 0 and number > 0.8 * reference.events[stage]:
            # with the stages before it done, a stage has fewer events than in the undisturbed run
            number = number * 3 // 4
            place.fresh(reference.outputs, done)
            outcome = _ended_at(place, stage, number, name)
        if outcome.left:
            problems.append(f"{outcome.left} processes were left")
        if single and outcome.code == 0:
            problems.append("it was not ended")
        elif outcome.code not in (0, -getattr(signal, name), 128 + signal.SIGINT, 1):
            problems.append(f"ended with {outcome.code}: {outcome.last_line}")
    finished = place.done()
    before = place.written(finished)
    outcome = place.run()
    return problems + judged(outcome, place, reference.tree) + _again(place, finished, before)


def _ended_at(place: Place, stage: str, number: int, name: str) -> Outcome:
    """A run to which the signal ``name`` is sent at the event ``number`` of ``stage``."""
    return place.run("--end-at", json.dumps({"stage": stage, "number": number, "signal": name}))


def _again(place: Place, finished: list[str], before: dict[str, int]) -> list[str]:
    after = place.written(finished)
    changed = {name for name in before if after.get(name) != before[name]}
    # a bundle is packed whenever it is asked for; its bytes are compared
    again = sorted(name for name in changed if Path(name).name != "story.zip")
    return [f"done again: {Path(name).relative_to(place.outputs)}" for name in again[:3]]


def judged(outcome: Outcome, place: Place, expected: dict[str, str]) -> list[str]:
    """What is wrong with a run that should have gone well."""
    problems = faults_place.differences(place, expected)[:6]
    if outcome.code:
        problems.insert(0, f"ended with {outcome.code}: {outcome.last_line}")
    if outcome.left:
        problems.append(f"{outcome.left} processes were left")
    return problems


def run_pairs(count: int, reference: Undisturbed, dataset: Path, work: Path) -> int:
    """Start two runs in one folder; the number of pairs that end well.

    One waits for the other, by name, and what one has done the other does not do again.
    """
    good = 0
    for index in range(count):
        place = Place(work / "pairs" / "place", dataset)
        stage = STAGES[index % len(STAGES)]
        place.fresh(reference.outputs, list(STAGES[: STAGES.index(stage)]))
        processes = [place.start() for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(faults_place.ended, processes))
        problems = [problem for each in outcomes for problem in judged(each, place, reference.tree)]
        waited = [line for each in outcomes for line in each.text.splitlines() if "waiting" in line]
        named = [line for line in waited if any(f"process {p.pid} on " in line for p in processes)]
        if not named:
            problems.append(f"none waited for the other by name: {waited}")
        print(f"pairs: from {stage} on: {'; '.join(problems) or f'equal ({named[0]})'}", flush=True)
        good += not problems
    return good


# what is taken away so that a damaged cache is read: nothing reads it where that is whole
READERS = {
    "cache/": ("lora", "story", "base"),
    "scores/training-set-": ("scores/story.json", "scores/base.json"),
}
BATCH = ("panel-1.png", "panel-2.png")  # by render_batch_size of the short run
DAMAGE = ("cut", "emptied", "a bit turned", "zeros", "gone")


def run_damage(
    count: int, reference: Undisturbed, dataset: Path, work: Path, seed: int, workers: int
) -> tuple[int, int]:
    """Damage one file of a finished run at a time; the number of tries, and of good ends.

    What it belongs to is made again, with a word, and equals what it was.
    """
    rng = random.Random(seed)
    by_kind: dict[str, list[str]] = {}
    for name in reference.tree:
        path = Path(name)
        # drawn alone, a picture of a batch of two comes out up to 1 of 255 different
        in_batch = path.parent.name in ("story", "base") and path.name in BATCH
        if (reference.outputs / name).is_file() and name != "story.zip" and not in_batch:
            kind = str(path.parent / path.suffix) if "images" in path.parts else name
            by_kind.setdefault(kind if not name.startswith("cache/text") else "text", []).append(
                name
            )
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    todo = [
        (rng.choice(by_kind[kinds[index % len(kinds)]]), DAMAGE[index % 5])
        for index in range(count)
    ]
    places = [Place(work / f"damage-{index}" / "place", dataset) for index in range(workers)]
    free = list(places)

    def tried(each: tuple[str, str]) -> bool:
        name, how = each
        place = free.pop()
        try:
            place.fresh(reference.outputs)
            damage(place.outputs / name, how, rng)
            for start, readers in READERS.items():
                for reader in readers if name.startswith(start) else ():
                    faults_place.delete(place.outputs / reader)
            outcome = place.run()
            problems = judged(outcome, place, reference.tree)
            words = ("damaged", "missing", "again", "drew", "streaming", "caching")
            if how != "gone" and not any(word in outcome.text for word in words):
                problems.append("nothing was said")
        finally:
            free.append(place)
        print(f"damage: {name}, {how}: {'; '.join(problems) or 'equal'}", flush=True)
        return not problems

    with ThreadPoolExecutor(workers) as pool:
        good = sum(pool.map(tried, todo))
    return len(todo), good


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Spoil a file; a link is no longer one, so that only this file is spoilt."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "gone":
        return
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = content[:0]
    elif how == "zeros":
        content = bytearray(len(content))
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


assert set(SHARES) == set(STAGES) == set(PATHS)
