"""How long does the notebook take?  python -m benchmarks.notebook [-p NAME VALUE ...]

Runs ``python -m storyboard`` into an empty folder and then once more, and shows the seconds of
every cell; ``--notebook`` names another than ``baseline.ipynb``. The packages are installed
already; starting the kernel counts. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import side_by_side
from benchmarks.side_by_side import ROOT


def run(
    notebook: Path, output: Path, parameters: list[list[str]]
) -> tuple[float, dict[str, float]]:
    """Wall seconds of the whole, seconds of each cell by its first line that is no import."""
    options = ["--notebook", str(notebook)]
    for name, value in [*parameters, ["output", str(output)]]:
        options += ["-p", name, value]
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "storyboard", *options], cwd=ROOT, stdout=sys.stderr, check=False
    )
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"The notebook ended with exit code {process.returncode}; its output is above.")

    executed = json.loads((output / "baseline.executed.ipynb").read_text(encoding="utf-8"))
    by_cell = {}
    for cell in executed["cells"]:
        duration = cell["metadata"].get("papermill", {}).get("duration")
        if cell["cell_type"] == "code" and duration:
            by_cell[_title("".join(cell["source"]))] = duration
    return seconds, by_cell


def _title(source: str) -> str:
    lines = [line.strip() for line in source.splitlines()]
    named = [line for line in lines if line and not line.startswith(("from ", "#", "import "))]
    return named[0][:48]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    parser.add_argument("--notebook", type=Path, default=ROOT / "baseline.ipynb")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "benchmark-notebook")
    arguments = parser.parse_args()
    output = side_by_side.fresh(arguments.output.resolve())
    (first, cells), (second, again) = (
        run(arguments.notebook, output, arguments.parameter) for _ in range(2)
    )
    rows = [
        {"cell": name, "first run s": seconds, "second run s": again.get(name)}
        for name, seconds in cells.items()
        if seconds >= 0.05
    ]
    rows.append(
        {
            "cell": "all, with Python's and the kernel's start",
            "first run s": first,
            "second run s": second,
        }
    )
    print(f"\n{side_by_side.machine()}\n\n{side_by_side.table(rows)}\n")
    print(json.dumps({"first_s": round(first, 1), "second_s": round(second, 1)}))


if __name__ == "__main__":
    main()
