"""Many runs of the notebook's calls in one process: memory stays flat, nothing is left behind."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import faults_place
from benchmarks.faults_run import SETTINGS
from benchmarks.side_by_side import ROOT

SETTLED = 3  # runs after which libraries and caches are loaded
GROWTH = 48 * 2**20  # bytes that the rest of the runs may add, whatever their number
SUBJECTS = ("紫色短发女孩", "绿色长发女孩", "金色短发男孩", "红色长发女孩", "蓝色短发女孩")
DOINGS = ("微笑，看书", "难过，撑着雨伞", "惊讶，拿着气球", "大笑，弹吉他")


def story(number: int):
    """Eight prompts, others in every run."""
    from storyboard import Story

    prompts = [
        f"二次元，{SUBJECTS[(number + index) % 5]}，{DOINGS[(number * 3 + index) % 4]}，{number}"
        for index in range(8)
    ]
    return Story(prompts, negative_prompt="模糊，低质量")


def run_once(number: int, dataset: Path) -> None:
    """The cells of the notebook."""
    import storyboard
    from storyboard import Pair, Settings

    settings = Settings(dataset=str(dataset), base="mini", **SETTINGS)
    prompts = story(number)
    captions = storyboard.collect(settings)
    report = storyboard.clean(captions, settings)
    lora = storyboard.train(report.captions, settings, prompts)
    pictures = storyboard.render(prompts, settings, lora)
    pair = Pair(storyboard.render(prompts, settings, None), pictures)
    scores = storyboard.score(pictures, settings, report.captions, pair.base)
    for shown in (captions, report, lora, pictures, pair, scores):
        shown._repr_html_()
    storyboard.files(settings)


def state() -> dict[str, int]:
    """What this process holds, and what lies in its folder and in that for temporary files."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    # an embedding is kept for every prompt that was ever drawn
    files = [path for path in Path("outputs").rglob("*") if "text" not in path.parts]
    return {
        "rss": resident,
        "processes": len(children),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "files": len(files),
        "temporary": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def main(count: int) -> int:
    """In a process and a folder of its own; the exit code is 1 where something grows."""
    dataset = faults_place.data_set(Path("data"))
    states = []
    for number in range(count):
        run_once(number, dataset)
        states.append(state())
        line = ", ".join(f"{name} {value}" for name, value in states[-1].items() if name != "rss")
        rss = states[-1]["rss"] / 2**20
        print(f"notebook: run {number + 1}: {rss:,.0f} MiB, {line}", file=sys.stderr, flush=True)

    settled, last = states[min(SETTLED, count - 1)], states[-1]
    grown = [name for name in settled if name != "rss" and last[name] > settled[name]]
    if last["rss"] - settled["rss"] > GROWTH:
        grown.append("rss")
    for name in grown:
        print(f"notebook: {name} grew from {settled[name]} to {last[name]}", file=sys.stderr)
    return 1 if grown else 0


def run(count: int) -> bool:
    """Whether ``count`` runs in a row leave memory flat, and nothing behind."""
    with tempfile.TemporaryDirectory(prefix="storyboard-notebook-") as work:
        temporary = Path(work) / "tmp"
        temporary.mkdir()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.faults_notebook", str(count)],
            cwd=work,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        # torch's cache for compiled code is one for all runs of a user
        left = [each for each in temporary.iterdir() if "torchinductor" not in each.name]
        shutil.rmtree(temporary)
    if left:
        print(f"notebook: left {left[0].name}", flush=True)
    return process.returncode == 0 and not left


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
