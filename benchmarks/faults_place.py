"""Where a short run of ``faults_run`` works, and how its files are compared with others.

A place is a folder with ``outputs`` and an empty folder for temporary files. All places are called
alike from inside, so that equal runs write equal bytes.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults_run import STAGES
from benchmarks.side_by_side import ROOT

PICTURES = 40  # of the sample set
MINUTES = 15  # that a run may take on a machine with other work
SECONDS_TO_END = 20  # for processes of a group that was sent a signal


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: Its exit code, negative for a signal.
        text: What it printed, errors included.
        left: Processes of its group that went on after it.
    """

    code: int
    text: str
    left: int = 0

    @property
    def last_line(self) -> str:
        lines = self.text.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class Place:
    """A folder to run in.

    Attributes:
        dataset: The data set that all runs read.
        options, environment: Of every run.
    """

    folder: Path
    dataset: Path
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def fresh(self, outputs: Path | None = None, stages: list[str] | None = None) -> None:
        """Empty it; ``outputs`` is copied into it, of the finished ``stages`` alone."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        self.temporary.mkdir(parents=True)
        if outputs:
            self.take(outputs, list(STAGES) if stages is None else stages)

    def take(self, outputs: Path, stages: list[str]) -> None:
        """Copy what ``stages`` wrote, and what belongs to no stage alone, from ``outputs``."""
        copy(outputs, self.outputs)
        for name in set(PATHS) - set(stages):
            for path in paths_of(self.outputs, name):
                delete(path)

    def start(self, *options: str) -> subprocess.Popen:
        """A run in a process group of its own."""
        command = [sys.executable, "-m", "benchmarks.faults_run"]
        command += ["--dataset", str(self.dataset), "--log", str(self.log)]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
            **self.environment,
        }
        return subprocess.Popen(
            [*command, *self.options, *options],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> Outcome:
        """A run to its end."""
        return ended(self.start(*options))

    def done(self) -> list[str]:
        """Stages that a run has finished."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return list(dict.fromkeys(line[5:] for line in lines if line.startswith("done ")))

    def written(self, stages: list[str]) -> dict[str, int]:
        """When each file of ``stages`` was written."""
        files = [file for name in stages for file in files_of(self.outputs, name)]
        return {str(file): file.stat().st_mtime_ns for file in files}


# what each stage writes below ``outputs``, as patterns
PATHS: dict[str, tuple[str, ...]] = {
    "collect": ("collected", "hub"),
    "clean": ("cleaned",),
    "train": ("lora", "cache", ".checkpoint"),
    "render": ("story",),
    "base": ("base",),
    "score": ("scores/story.json", "scores/base.json", "scores/training-set-*"),
    "best": ("scores/step-*",),
    "bundle": ("story.zip",),
}


def paths_of(outputs: Path, stage: str) -> list[Path]:
    """Files and folders that ``stage`` wrote in ``outputs``."""
    return [path for pattern in PATHS[stage] for path in sorted(outputs.glob(pattern))]


def files_of(outputs: Path, stage: str) -> list[Path]:
    """Files that ``stage`` wrote in ``outputs``."""
    inside = [file for path in paths_of(outputs, stage) for file in (path, *path.rglob("*"))]
    return [file for file in inside if file.is_file()]


def ended(process: subprocess.Popen) -> Outcome:
    """Wait for a run and for the processes that it started."""
    try:
        text, _ = process.communicate(timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        text += f"\nended after {MINUTES} minutes"
    deadline = time.monotonic() + SECONDS_TO_END
    while _group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = len(_group(process.pid))
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    return Outcome(process.returncode, text, left)


def _group(leader: int) -> list[int]:
    """Processes of a group that run."""
    running = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            running.append(int(entry.name))
    return running


def data_set(folder: Path) -> Path:
    """The first pictures of the sample set with their captions."""
    folder.mkdir(parents=True)
    source = ROOT / "data" / "sample"
    lines = (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:PICTURES]
    for line in lines:
        name = json.loads(line)["file_name"]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def copy(source: Path, target: Path) -> None:
    """A copy of ``source`` in which hard links are links again."""
    links: dict[int, Path] = {}
    for path in [source, *sorted(source.rglob("*"))]:
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        first = links.setdefault(path.stat().st_ino, place)
        if first is place:
            shutil.copy2(path, place)
        else:
            os.link(first, place)


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder below ``folder`` with the digest of what must be equal in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = "folder" if path.is_dir() else _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name.endswith("manifest.json"):
        manifest = json.loads(content)
        # the seconds that operators took, and the digests of what names them
        for count in manifest.get("operators", []):
            count.pop("seconds", None)
        manifest.pop("checksum", None)
        if manifest.get("stage") == "collect":
            manifest.pop("fingerprint")  # of when the files of the data set were written
        content = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def differences(place: Place, expected: dict[str, str]) -> list[str]:
    """What is not as in an undisturbed run, temporary files that were left included."""
    found = tree(place.outputs)
    lines = [f"missing {name}" for name in expected.keys() - found.keys()]
    lines += [f"stray {name}" for name in found.keys() - expected.keys()]
    lines += [
        f"other {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]
    ]
    left = [path.name for path in place.temporary.iterdir()]
    # torch's cache for compiled code, one for all runs of a user
    lines += [f"temporary {name}" for name in left if not name.startswith("torchinductor_")]
    return sorted(lines)


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
