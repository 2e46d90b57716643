"""Training and drawing beside another busy process:  python -m benchmarks.busy_machine

The defaults on ``mini`` at one way of waiting at a time, alone and beside one process that never
rests. Threads of OpenMP spin while they wait for each other, unless ``OMP_WAIT_POLICY`` is
``passive``: where another process takes a core, those that hold the others wait for a time slice.
``by the load`` is what the notebook's first cell does (``storyboard.threads``). For each way the
median of the training steps and of three stories of eight panels is printed. The last line is JSON.

``--steps`` of training, of which five are left out. ``--output`` keeps what all need: the cleaned
set, its latents and embeddings. ``--quick`` trains and draws at 64 pixels, to see that all of it
runs.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.side_by_side import ROOT
from storyboard import threads

WAYS = {  # what the environment says
    "spinning": {},  # the default
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "short spin": {"GOMP_SPINCOUNT": threads.SHORT},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "by the load": {},  # which threads.choose adds to
}
LEFT_OUT = 5  # steps at the start
STORIES = 3
BUSY = [sys.executable, "-c", "while True: pass"]


def measure(way: str, output: Path, steps: int, quick: bool = False) -> dict[str, float]:
    """Seconds of a training step and of eight panels in this process."""
    if way == "by the load":
        print(threads.choose())
    from storyboard import Settings, Story, clean, collect, render, show, train

    small = {"resolution": 64, "num_inference_steps": 2} if quick else {}
    settings = Settings(base="mini", output=str(output), train_steps=steps, **small)
    captions = clean(collect(settings), settings).captions
    moments = []
    step = show.Live.step

    def timed(self, *arguments, **named):
        moments.append(time.perf_counter())
        step(self, *arguments, **named)

    show.Live.step = timed
    lora = train(captions, settings.but(seed=time.time_ns() % 10**6))
    show.Live.step = step
    spent = [after - before for before, after in itertools.pairwise(moments)]

    stories = []
    for seed in range(2 if quick else STORIES + 1):
        began = time.perf_counter()
        prompts = ["二次元，紫色短发女孩，微笑，海边"] * 8
        render(Story(prompts), settings.but(seed=time.time_ns() % 10**6 + seed), lora)
        stories.append(time.perf_counter() - began)
    return {"step_s": median(spent[LEFT_OUT:]), "story_s": median(stories[1:])}


def in_a_process(way: str, busy: bool, output: Path, steps: int, quick: bool = False) -> dict:
    """``measure`` in a process of its own, with the environment of ``way``."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    command = [sys.executable, "-m", "benchmarks.busy_machine", "--measure", way]
    command += ["--output", str(output), "--steps", str(steps), *(["--quick"] if quick else [])]
    neighbour = subprocess.Popen(BUSY) if busy else None
    try:
        process = subprocess.run(
            command,
            env=environment | WAYS[way],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()
    return {"way": way, "busy": busy} | json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/busy"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="small pictures")
    parser.add_argument("--measure", choices=WAYS, help="one of the ways, in this process")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if arguments.measure:
        way, steps = arguments.measure, arguments.steps
        print(json.dumps(measure(way, output, steps, arguments.quick)))
        return

    quick = arguments.quick
    in_a_process("spinning", False, output, LEFT_OUT + 2, quick)  # what all need
    rows = []
    print(f"{'':<12}{'beside':<18}{'a training step':>16}{'eight panels':>14}")
    for busy in (False, True):
        for way in WAYS:
            row = in_a_process(way, busy, output, arguments.steps, quick)
            rows.append(row)
            beside = "a busy process" if busy else "nothing"
            print(f"{way:<12}{beside:<18}{row['step_s']:>14.3f} s{row['story_s']:>12.2f} s")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
