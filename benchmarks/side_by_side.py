"""What the benchmarks share: a process for each contender, the machine, tables."""

import argparse
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

PEER_STEPS = 50  # what the peers denoise by default
ROOT = Path(__file__).resolve().parents[1]
BEGAN = time.perf_counter()  # of this process, Python's own start left out


def contender(module: str, name: str, *arguments: str) -> dict:
    """Run one contender alone in a process of its own.

    Returns:
        The JSON of its last line, and ``wall_s``, Python's start included.
    """
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", module, "--contender", name, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"{name} ended with exit code {process.returncode}; its output is above.")
    wall = round(time.perf_counter() - began, 2)
    return json.loads(process.stdout.splitlines()[-1]) | {"wall_s": wall}


def options(arguments: argparse.Namespace) -> list[str]:
    """``arguments`` as a command line for a contender."""
    given = {name: value for name, value in vars(arguments).items() if name != "contender"}
    words = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


def matrix_rate(dtype: str = "float32") -> float:
    """Floating point operations a second of a matrix product, the median of ten.

    Sides are 2,048 on the CPU and 8,192 on a card.
    """
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
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    packages = ", ".join(_versions("torch", "diffusers", "diffsynth", "py-data-juicer"))
    return f"{date.today()}, {name}, {cores}, {packages}"


def _versions(*packages: str) -> Iterator[str]:
    """Name and version of those that are installed."""
    for package in packages:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:  # a machine with a card may have no Data-Juicer
            continue


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def base_named(name: str, folder: Path) -> str:
    """What ``Settings`` takes for ``--base``.

    Args:
        name: A name, a path, or ``kolors-tiny``, ``sdxl-tiny``, ``sd15-tiny``, which are built
            below ``folder`` with random weights.
    """
    if not name.endswith("-tiny"):
        return name
    from tests import tiny

    family = name.removesuffix("-tiny")
    path = folder / tiny.HUB[family]
    return str(path if path.is_dir() else tiny.build(family, folder))


def table(rows: list[dict]) -> str:
    """Rows of the same keys, the first column left, the others right."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        aligned.append("  ".join(cells))
    return "\n".join(aligned)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
