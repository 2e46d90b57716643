"""What the speed benchmarks share: a process for each contender, the machine and what it can do at most."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
BEGAN = time.perf_counter()  # of this process, Python's own start left out


def contender(module: str, name: str, *arguments: str) -> dict:
    """Run one contender alone in a process of its own -> the JSON of its last line, and ``wall_s`` with Python's start."""
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", module, "--contender", name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.returncode:
        sys.exit(f"{name} ended with exit code {process.returncode}; what it said is above.")
    return json.loads(process.stdout.splitlines()[-1]) | {
        "wall_s": round(time.perf_counter() - began, 2)
    }


def matrix_rate(dtype: str = "float32") -> float:
    """Floating point operations a second of a product of two 2048 x 2048 matrices, the median of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 2048
    left, right = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / median(seconds[2:])


def machine() -> str:
    """Device, threads and versions in one line."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    packages = ", ".join(_versions("torch", "diffusers", "diffsynth", "py-data-juicer"))
    return f"{date.today()}, {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {packages}"


def _versions(*packages: str) -> Iterator[str]:
    """Name and version of those that are installed: a machine lent for its card has no Data-Juicer."""
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _processor() -> str:
    names = (
        [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        if Path("/proc/cpuinfo").is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def base_named(name: str, folder: Path) -> str:
    """What ``Settings`` takes for ``--base``: a name, a path, or ``kolors-tiny``, ``sdxl-tiny``, ``sd15-tiny`` built below ``folder`` with random weights."""
    if not name.endswith("-tiny"):
        return name
    from tests import tiny

    path = folder / tiny.HUB[name.removesuffix("-tiny")]
    return str(path if path.is_dir() else tiny.build(name.removesuffix("-tiny"), folder))


def table(rows: list[dict]) -> str:
    """Rows of the same keys, the first left, numbers right."""
    heads = list(rows[0])
    cells = [
        heads,
        *(
            [
                f"{value:,.2f}" if isinstance(value, float) else "" if value is None else str(value)
                for value in row.values()
            ]
            for row in rows
        ),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        )
        for line in cells
    )
