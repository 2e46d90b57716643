"""A short run on ``mini`` that ends itself where it is told to.  python -m benchmarks.faults_run

Calls what the notebook calls, into ``outputs`` of the current folder. What is done on disk below
it, and every step of training and drawing, is an event; events are counted for each stage. What is
given by --end-at is sent to the whole process group at that event: faults do not depend on how
fast a machine is.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

ON_DISK = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.copyfile")
STAGES = ("collect", "clean", "train", "render", "base", "score", "best", "bundle")
PROMPTS = ("二次元，紫色短发女孩，微笑", "二次元，绿色长发女孩，难过", "anime, a boy")
SETTINGS = {
    "output": "outputs",
    "resolution": 64,
    "train_steps": 12,
    "train_batch_size": 4,
    "num_inference_steps": 4,
    "render_batch_size": 2,
}
HUB_DATASET, HUB_BASE = "someone/anime", "someone/mini"  # with --hub
REFUSED = 3  # exit code: the package refused to go on, in a sentence that is the last line


class Events:
    """Counts events and ends the process at one of them.

    Args:
        end_at: ``{"stage", "number", "signal"}`` or None.
        log: File that names every stage that is finished, and at the end the counts.
    """

    def __init__(self, end_at: dict | None, log: Path) -> None:
        self.end_at, self.log = end_at, log
        self.counts: Counter[str] = Counter()
        self.stage = ""
        self.root = str(Path("outputs").absolute())

    def audit(self, event: str, arguments: tuple) -> None:
        """Python's audit hook (PEP 578)."""
        if not self.stage:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not writes and event not in ON_DISK:
            return
        paths = [os.fsdecode(each) for each in arguments[:2] if isinstance(each, (str, bytes))]
        paths += [str(each) for each in arguments[:2] if isinstance(each, os.PathLike)]
        if any(str(Path(path).absolute()).startswith(self.root) for path in paths):
            self.happened()

    def happened(self) -> None:
        self.counts[self.stage] += 1
        end = self.end_at
        if end and (self.stage, self.counts[self.stage]) == (end["stage"], end["number"]):
            self.end_at = None
            os.killpg(0, getattr(signal, end["signal"]))

    def note(self, line: str) -> None:
        with self.log.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def run(events: Events, stages: list[str], dataset: str, base: str) -> None:
    """The notebook's cells; ``stages`` are those whose events count."""
    import storyboard
    from storyboard import Settings, Story, show

    step = show.Live.step

    def counted(self, *arguments, **named):
        step(self, *arguments, **named)
        if events.stage:
            events.happened()

    show.Live.step = counted
    settings = Settings(dataset=dataset, base=base, **SETTINGS)
    story = Story(list(PROMPTS), negative_prompt="模糊")
    made: dict = {}
    calls = {
        "collect": lambda: storyboard.collect(settings),
        "clean": lambda: storyboard.clean(made["collect"], settings),
        "train": lambda: storyboard.train(made["clean"].captions, settings, story),
        "render": lambda: storyboard.render(story, settings, made["train"]),
        "base": lambda: storyboard.render(story, settings, None),
        "score": lambda: storyboard.score(
            made["render"], settings, made["clean"].captions, made["base"]
        ),
        "best": lambda: storyboard.best(
            made["train"], story, settings, made["clean"].captions, panels=1
        ),
        "bundle": lambda: storyboard.bundle(made["render"], made["train"], settings, made["clean"]),
    }
    for name in STAGES:
        if name not in stages:
            continue
        events.stage = name
        made[name] = calls[name]()
        events.stage = ""
        events.note(f"done {name}")
    events.note(json.dumps(events.counts))


def base_of_a_hub() -> str:
    """The name of a base like ``mini`` whose weights are at Hugging Face."""
    from storyboard.models import bases

    mini = bases.get("mini")
    base = replace(mini, name="hub-mini", folder=None, embedded=False, huggingface=HUB_BASE)
    return bases.register(base).name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--end-at", type=json.loads, help='{"stage", "number", "signal"}')
    parser.add_argument("--last", choices=STAGES, default=STAGES[-1])
    parser.add_argument("--believe-in-room", action="store_true", help="ask no disk what is free")
    parser.add_argument("--hub", action="store_true", help="fetch mini from Hugging Face")
    parser.add_argument("--largest-file", type=int, help="bytes that a file may have")
    arguments = parser.parse_args()

    # a shell that starts the report in the background lets its children ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments.believe_in_room:
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=10**15)
    if arguments.largest_file is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.largest_file,) * 2)

    from storyboard.errors import StoryboardError

    events = Events(arguments.end_at, arguments.log.absolute())
    sys.addaudithook(events.audit)
    base = base_of_a_hub() if arguments.hub else "mini"
    try:
        run(events, list(STAGES[: STAGES.index(arguments.last) + 1]), arguments.dataset, base)
    except StoryboardError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
