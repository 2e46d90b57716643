"""pip, as a program: what it would do, what it does, and why it could not."""

import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from storyboard.errors import InstallError

LARGE = re.compile(r"Downloading (?:\S*/)?([\w.]+?)-\d\S* \(([\d.]+ [MG]B)\)")
LEAST = 50  # MB of a download that is told
NO_COMPILER = re.compile(r"command '\S*(?:gcc|cc|g\+\+|clang)\S*' failed|unable to execute '\S*cc'")
ALLOWED = re.compile(r"break-system-packages='(?:1|y|yes|t|true|on)'", re.IGNORECASE)
FAILED = re.compile(r"Failed (?:to build|building wheel for) '?([\w.-]+)|╰─> ([\w.-]+)$", re.M)


@dataclass(frozen=True)
class Request:
    """What pip is asked for.

    Attributes:
        requirements: As lines of a requirements file.
        constraints: As lines of a constraints file.
        index: Address of an index beside the configured one; empty for none.
    """

    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    index: str = ""


@dataclass(frozen=True)
class Found:
    """A package that pip would install: version, and whether it is built from source."""

    version: str
    from_source: bool = False


@dataclass
class _Said:
    """The lines of a run of pip."""

    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def check_usable() -> None:
    """Raise InstallError where pip cannot install into this Python."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        raise InstallError(
            f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`, "
            "or `uv pip install pip` in an environment of uv, and then this cell again."
        )
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix != sys.base_prefix or not marker.is_file():
        return
    # variables of pip are listed too
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    if not ALLOWED.search(listed.stdout):
        raise InstallError(
            f"{sys.executable} is managed by another program than pip, as its system's or uv's is, "
            "which forbids pip to change it: make an environment (python3 -m venv .venv), install "
            "into it (.venv/bin/pip install -r requirements.txt) and choose it as this notebook's "
            "kernel."
        )


def resolve(request: Request) -> dict[str, Found]:
    """What pip would install, by name as its metadata write it; nothing is changed.

    Raises:
        InstallError: There is no network, or no set of versions that fits.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _run(["--dry-run", "--report", str(report)], request, Path(folder))
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        entry["metadata"]["name"]: Found(
            entry["metadata"]["version"], not entry["download_info"]["url"].endswith(".whl")
        )
        for entry in entries
    }


def install(request: Request, versions: Iterable[tuple[str, str]], tell: Callable) -> None:
    """Install ``versions``, the names and versions that ``resolve`` found for ``request``.

    Args:
        tell: Takes a line of progress.

    Raises:
        InstallError: It failed.
    """
    pins = tuple(f"{name}=={version}" for name, version in versions)
    with tempfile.TemporaryDirectory() as folder:
        pinned = Request(request.requirements, (*request.constraints, *pins), request.index)
        _run(["--progress-bar", "off"], pinned, Path(folder), tell)


def _run(options: list[str], request: Request, folder: Path, tell: Callable | None = None) -> None:
    for name, lines in (
        ("requirements", request.requirements),
        ("constraints", request.constraints),
    ):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    command = [sys.executable, "-m", "pip", "install", "--no-input", *options]
    command += ["-r", str(folder / "requirements.txt"), "-c", str(folder / "constraints.txt")]
    if request.index:
        command += ["--extra-index-url", request.index]
    said = _Said()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            said.lines.append(line.rstrip())
            large = LARGE.search(line) if tell else None
            if tell and large and (large[2].endswith("GB") or float(large[2].split()[0]) >= LEAST):
                tell(f"downloading {large[1]}, {large[2]}")
    if process.returncode:
        raise InstallError(why_not(said.text))


def why_not(text: str) -> str:
    """The one sentence that a failed run of pip comes to."""
    errors = re.findall(r"^ERROR: (.+)$", text, re.MULTILINE)
    last = errors[-1].rstrip(".") if errors else (text.splitlines() or ["no reason given"])[-1]
    if "No space left on device" in text:
        return (
            "pip stopped as the disk is full: free some GB, or set TMPDIR and PIP_CACHE_DIR "
            "to another disk, and run this cell again."
        )
    if "no such option: --dry-run" in text:  # which came with pip 22.2
        return (
            "This pip is too old to say what it would do: run `pip install -U pip` and this cell "
            "again."
        )
    if "ResolutionImpossible" in text:
        return (
            f"pip found no versions that fit together ({_conflict(text)}): make an environment of "
            "its own (python3 -m venv .venv) and install requirements.txt there."
        )
    if NO_COMPILER.search(text):
        return (
            f"{_failed(text)} has no wheel for this Python and no C compiler is here to build it: "
            "install one (apt-get install gcc) or take Python 3.11 to 3.13."
        )
    if "(from versions: none)" in text:
        wanted = last.removeprefix("No matching distribution found for ")
        return (
            f"pip reaches no index that has {wanted}: connect to a network, or name a mirror "
            "(PIP_INDEX_URL) or a folder of wheels (PIP_NO_INDEX=1, PIP_FIND_LINKS), "
            "and run this cell again."
        )
    return f"pip stopped: {last}; mend that and run this cell again."


def _failed(text: str) -> str:
    found = FAILED.search(text)
    return next(filter(None, found.groups()), "a package") if found else "a package"


def _conflict(text: str) -> str:
    """The lines of pip's report that name who asks for what, in one."""
    report = text.partition("The conflict is caused by:")[2].partition("\n\n")[0]
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return "; ".join(lines[:4]) or "see pip install -r requirements.txt"
