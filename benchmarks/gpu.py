"""What a CUDA card does, measured in eight minutes:  python -m benchmarks.gpu

Sections, the best first, each with a time budget; numbers lie in ``<output>/<section>.json`` as soon as they are known, and a
section that is whole there is not measured again. Weights are random, made on the card from the real configs; a LoRA, its
pictures and the cleaned list of a CPU run come from ``--pack``, which ``python -m benchmarks.gpu --make-pack outputs`` fills.
The last lines are a table and one JSON line. ``--dry`` does all of it in tiny on the CPU.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import side_by_side

TOTAL = 480.0  # seconds for all sections


class OutOfTime(BaseException):
    """A section used up its budget; no library's ``except Exception`` shall hold it up."""


class Card:
    """The device under measurement, how much time is left, and where numbers go.

    Args:
        output: Folder of the sections' JSON files.
        work: Folder for weights, large and fast if possible.
        pack: Folder that ``--make-pack`` filled.
        dry: Everything in tiny, on the CPU.
    """

    def __init__(self, output: Path, work: Path, pack: Path, dry: bool) -> None:
        self.output, self.work, self.pack, self.dry = output, work, pack, dry
        self.device = "cpu" if dry else "cuda"
        self.section, self.notes, self.ends = "", {}, 0.0

    def note(self, name: str, value: object, unit: str = "") -> None:
        """Keep a number, on disk at once."""
        self.notes[name] = {
            "value": round(value, 4) if isinstance(value, float) else value,
            "unit": unit,
        }
        self.write(complete=False)
        print(f"  {self.section}: {name} = {self.notes[name]['value']} {unit}", flush=True)

    def write(self, complete: bool, failure: str | None = None) -> None:
        """Put the section's notes on disk."""
        from storyboard import artifacts

        content = {
            "section": self.section,
            "complete": complete,
            "failure": failure,
            "notes": self.notes,
        }
        artifacts.write_json(self.output / f"{self.section}.json", content)

    def left(self) -> float:
        """Seconds left of the section's budget."""
        return self.ends - time.perf_counter()

    def synchronize(self) -> None:
        """Wait until the card has done what it was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = 5, warm: int = 2) -> float:
        """Median seconds of ``work`` after ``warm`` calls that do not count."""
        times = []
        for place in range(warm + (1 if self.dry else repeats)):
            self.synchronize()
            began = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - began)
        return median(times[warm:])

    @contextmanager
    def peak(self, name: str):
        """Note the peak of the card's memory, in GiB, of what is done inside."""
        import torch

        self.free()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device == "cuda":
            self.note(name, torch.cuda.max_memory_allocated() / 2**30, "GiB")

    def free(self) -> None:
        """Give back what nothing holds any longer."""
        import gc

        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def within(seconds: float):
    """Raise OutOfTime inside when ``seconds`` are over."""

    def over(_signal, _frame):
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(
        signal.ITIMER_REAL, seconds, 2
    )  # again, should it fall into a destructor, which swallows it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(card: Card, sections: dict[str, tuple[float, Callable]], total: float) -> list[str]:
    """Run ``sections`` (name -> share of the time in seconds, function); returns the names of those that failed."""
    began, failed = time.perf_counter(), []
    for name, (budget, run) in sections.items():
        path = card.output / f"{name}.json"
        before = (
            json.loads(path.read_text(encoding="utf-8"))
            if path.is_file()
            else {"complete": False, "notes": {}}
        )
        if before["complete"]:
            print(f"{name}: measured before", flush=True)
            continue
        allowed = min(budget, total - (time.perf_counter() - began))
        card.section, card.notes, card.ends = name, before["notes"], time.perf_counter() + allowed
        if allowed < 5:
            print(f"{name}: no time left", flush=True)
            failed.append(name)
            continue
        print(f"{name}: at most {allowed:.0f} s", flush=True)
        try:
            with within(allowed):
                run(card)
            card.note("section", time.perf_counter() - card.ends + allowed, "s")
            card.write(complete=True)
        except (
            Exception,
            OutOfTime,
        ) as error:  # one section's fault must not cost the numbers of the others; it is told, and the exit code is 1
            traceback.print_exc()
            card.write(
                complete=False,
                failure=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            )
            failed.append(name)
        card.free()
    return failed


def report(output: Path, names: list[str]) -> dict[str, dict[str, object]]:
    """Print the table of what lies in ``output``; returns section -> name -> value."""
    found = {}
    for name in names:
        path = output / f"{name}.json"
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        found[name] = {key: note["value"] for key, note in content["notes"].items()} | (
            {} if content["complete"] else {"incomplete": content["failure"] or "cut off"}
        )
        rows = [
            {"": key, "value": note["value"], "unit": note["unit"]}
            for key, note in content["notes"].items()
        ]
        print(
            f"\n{name}{'' if content['complete'] else ' (incomplete: ' + str(content['failure']) + ')'}\n{side_by_side.table(rows) if rows else ''}"
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/gpu"), help="where the numbers go"
    )
    parser.add_argument(
        "--pack",
        type=Path,
        default=Path("outputs/gpu-pack"),
        help="what a CPU run left, made by --make-pack",
    )
    parser.add_argument(
        "--make-pack",
        type=Path,
        metavar="OUTPUTS",
        help="fill --pack from a finished run's folder, and stop",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for 25 GB of random weights; memory (/dev/shm) if it has room",
    )
    parser.add_argument("--sections", nargs="*", help="only these")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="for all sections together")
    parser.add_argument("--dry", action="store_true", help="everything in tiny, on the CPU")
    arguments = parser.parse_args()
    from benchmarks import gpu_sections

    if arguments.make_pack:
        gpu_sections.make_pack(arguments.make_pack, arguments.pack)
        return 0
    import torch

    if not arguments.dry and not torch.cuda.is_available():
        print(
            "torch finds no CUDA card here: run it where there is one, or with --dry.",
            file=sys.stderr,
        )
        return 2
    unknown = set(arguments.sections or []) - gpu_sections.SECTIONS.keys()
    if unknown:
        print(
            f"There is no section {min(unknown)!r}: choose from {', '.join(gpu_sections.SECTIONS)}.",
            file=sys.stderr,
        )
        return 2
    sections = {
        name: entry
        for name, entry in gpu_sections.SECTIONS.items()
        if name in (arguments.sections or gpu_sections.SECTIONS)
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")
    roomy = (
        not arguments.dry
        and memory.is_dir()
        and os.statvfs(memory).f_bavail * os.statvfs(memory).f_frsize > 30e9
    )
    with tempfile.TemporaryDirectory(dir=arguments.work or (memory if roomy else None)) as work:
        card = Card(arguments.output, Path(work), arguments.pack, arguments.dry)
        print(side_by_side.machine(), flush=True)
        failed = measure(card, sections, arguments.seconds)
    print(f"\n{side_by_side.machine()}")
    found = report(arguments.output, list(gpu_sections.SECTIONS))
    print(json.dumps(found | {"failed": failed}, ensure_ascii=False))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
