"""What a CUDA card does, measured in eight minutes:  python -m benchmarks.gpu

Sections, the most important first, each with a time budget; numbers lie in
``<output>/<section>.json`` as soon as they are known, and a section that is whole there is not
measured again. Weights are random, made on the card from the real configs; a LoRA, its pictures and
the cleaned list of a CPU run come from ``--pack``, which ``python -m benchmarks.gpu --make-pack
outputs`` fills. The last lines are a table and one JSON line. ``--dry`` does all of it in tiny on
the CPU.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import side_by_side

TOTAL = 480.0  # seconds for all sections
MIN_SECONDS = 5  # a section with less time left is not begun
WORK_BYTES = 30e9  # of memory for random weights, with room to spare


class OutOfTime(BaseException):
    """A section used up its budget; not an Exception, so that no library catches it."""


class Card:
    """The device under measurement, how much time is left, and where numbers go.

    Args:
        output: Folder of the sections' JSON files.
        work: Folder for weights, large and fast if possible.
        pack: Folder that ``--make-pack`` filled.
        dry: Everything in tiny, on the CPU.
    """

    def __init__(self, output: Path, work: Path, pack: Path, dry: bool) -> None:
        self.output = output
        self.work = work
        self.pack = pack
        self.dry = dry
        self.device = "cpu" if dry else "cuda"
        self.section = ""
        self.notes: dict[str, dict] = {}
        self.ends = 0.0

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
        for _ in range(warm + (1 if self.dry else repeats)):
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
    # again every 2 s: Python swallows an exception in a destructor
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(card: Card, sections: dict[str, tuple[float, Callable]], total: float) -> list[str]:
    """Run ``sections`` (name -> seconds at most, function).

    Returns:
        The names of those that failed.
    """
    began, failed = time.perf_counter(), []
    for name, (budget, run) in sections.items():
        before = _read(card.output / f"{name}.json")
        if before["complete"]:
            print(f"{name}: measured before", flush=True)
            continue

        allowed = min(budget, total - (time.perf_counter() - began))
        card.section, card.notes = name, before["notes"]
        card.ends = time.perf_counter() + allowed
        if allowed < MIN_SECONDS:
            print(f"{name}: no time left", flush=True)
            failed.append(name)
            continue
        print(f"{name}: at most {allowed:.0f} s", flush=True)
        if not _measured(card, run, allowed):
            failed.append(name)
        card.free()
    return failed


def _measured(card: Card, run: Callable[[Card], None], allowed: float) -> bool:
    """Run one section; whether it came to its end."""
    try:
        with within(allowed):
            run(card)
        card.note("section", time.perf_counter() - card.ends + allowed, "s")
        card.write(complete=True)
    except (Exception, OutOfTime) as error:
        # the other sections' numbers must not be lost; it is reported, and the exit code is 1
        traceback.print_exc()
        message = str(error).splitlines()[0] if str(error) else ""
        card.write(complete=False, failure=f"{type(error).__name__}: {message}")
        return False
    return True


def _read(path: Path) -> dict:
    """What a section wrote, if anything."""
    if not path.is_file():
        return {"complete": False, "failure": None, "notes": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def report(output: Path, names: list[str]) -> dict[str, dict[str, object]]:
    """Print the table of what lies in ``output``; returns section -> name -> value."""
    results: dict[str, dict[str, object]] = {}
    for name in names:
        path = output / f"{name}.json"
        if not path.is_file():
            continue
        content = _read(path)
        notes = content["notes"]
        results[name] = {key: note["value"] for key, note in notes.items()}
        title = name
        if not content["complete"]:
            results[name]["incomplete"] = content["failure"] or "cut off"
            title = f"{name} (incomplete: {content['failure']})"
        rows = [
            {"": key, "value": note["value"], "unit": note["unit"]} for key, note in notes.items()
        ]
        print(f"\n{title}\n{side_by_side.table(rows) if rows else ''}")
    return results


def command_line() -> argparse.Namespace:
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
    return parser.parse_args()


def main() -> int:
    from benchmarks import gpu_sections

    arguments = command_line()
    if arguments.make_pack:
        gpu_sections.make_pack(arguments.make_pack, arguments.pack)
        return 0
    if message := _refusal(arguments, gpu_sections.SECTIONS):
        print(message, file=sys.stderr)
        return 2

    chosen = arguments.sections or gpu_sections.SECTIONS
    sections = {name: entry for name, entry in gpu_sections.SECTIONS.items() if name in chosen}
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work or _memory(arguments.dry)) as work:
        card = Card(arguments.output, Path(work), arguments.pack, arguments.dry)
        print(side_by_side.machine(), flush=True)
        failed = measure(card, sections, arguments.seconds)

    print(f"\n{side_by_side.machine()}")
    results = report(arguments.output, list(gpu_sections.SECTIONS))
    print(json.dumps(results | {"failed": failed}, ensure_ascii=False))
    return 1 if failed else 0


def _refusal(arguments: argparse.Namespace, sections: Collection[str]) -> str | None:
    """Why it cannot run, or None."""
    import torch

    if not arguments.dry and not torch.cuda.is_available():
        return "torch finds no CUDA card here: run it where there is one, or with --dry."
    unknown = set(arguments.sections or []) - set(sections)
    if unknown:
        return f"There is no section {min(unknown)!r}: choose from {', '.join(sections)}."
    return None


def _memory(dry: bool) -> Path | None:
    """A folder in memory that has room for the weights, or None."""
    memory = Path("/dev/shm")
    if dry or not memory.is_dir():
        return None
    return memory if shutil.disk_usage(memory).free > WORK_BYTES else None


if __name__ == "__main__":
    sys.exit(main())
