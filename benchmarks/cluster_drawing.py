"""Are many stories drawn alike on a cluster?  python -m benchmarks.cluster_drawing [--stories 25]

Stories of eight panels are drawn on ``mini`` by ``render_many``, in one process and by a Ray, with
the LoRA of this repository. Ends with an error where a file or a record differs. Without
``--address`` it starts a Ray of two nodes with one CPU each on this machine; ``--kill`` then ends
a worker of it when half of the stories are drawn. ``--quick`` draws at 64 pixels in two steps. The
last line is JSON.
"""

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import side_by_side

PANELS = 8  # of a story
WORKER = "MapWorker"  # in the title of a process of Ray Data's


def stories(count: int) -> dict:
    """So many stories of prompts in Chinese and English, by name."""
    from benchmarks import prompt_following
    from storyboard import Story
    from tools.captions import caption

    rows = prompt_following.prompts()
    texts = [caption(row, language) for language in ("zh", "en") for row in rows]
    prompts = [texts[index % len(texts)] for index in range(count * PANELS)]
    negative = prompt_following.NEGATIVE["zh"]
    return {
        f"story-{number + 1}": Story(prompts[number * PANELS : (number + 1) * PANELS], negative)
        for number in range(count)
    }


def draw(arguments: argparse.Namespace, output: Path) -> dict:
    """Draw the stories in this process or at ``--address``; what came of it."""
    from storyboard import Settings, render_many, resources
    from storyboard.notebook import EXAMPLE_LORA

    small = {"resolution": 64, "num_inference_steps": 2} if arguments.quick else {}
    settings = Settings(base="mini", output=output, cluster=arguments.address, **small)
    named = stories(arguments.stories)
    began = time.perf_counter()
    made = render_many(named, settings, resources.path(EXAMPLE_LORA))
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in made.manifest.read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": round(seconds, 1),
        "failures": made.failures,
        "files": {line["file"]: line["sha256"] for line in lines if "file" in line},
        "records": {
            name: [panel.to_json() for panel in pictures.panels]
            for name, pictures in made.stories.items()
        },
    }


@contextlib.contextmanager
def cluster(arguments: argparse.Namespace, output: Path) -> Iterator[str]:
    """The address of the Ray that was named, or of one that is started for it."""
    if arguments.address:
        yield arguments.address
        return
    from tests.ray_cluster import TwoNodes

    ray = TwoNodes()
    ended = threading.Event()
    killer = threading.Thread(target=_kill_midway, args=(ray, output, arguments.stories, ended))
    try:
        if arguments.kill:
            killer.start()
        yield ray.address
    finally:
        ended.set()
        if arguments.kill:
            killer.join()
        ray.end()


def _kill_midway(ray, output: Path, count: int, ended: threading.Event) -> None:
    """End a worker of ``ray`` when half of the stories are drawn."""
    from tests.ray_cluster import of_node

    while not ended.wait(0.2):
        if 2 * len(list(output.glob("many/*/story.json"))) < count:
            continue
        for process in [each for node in ray.nodes for each in of_node(node)]:
            if WORKER in " ".join(process.cmdline()):
                process.kill()
                print(f"killed {process.pid}, a worker of Ray's", flush=True)
                return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stories", type=int, default=25)
    parser.add_argument("--address", help='of a Ray: "host:port" or "local"')
    parser.add_argument("--kill", action="store_true", help="end a worker midway")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark-cluster-drawing"))
    parser.add_argument(
        "--contender", choices=("alone", "cluster"), help="run this one alone, in this process"
    )
    arguments = parser.parse_args()
    if name := arguments.contender:
        print(json.dumps(draw(arguments, side_by_side.fresh(arguments.output / name))))
        return

    contender, options = "benchmarks.cluster_drawing", side_by_side.options(arguments)
    alone = side_by_side.contender(
        contender, "alone", *(each for each in options if not each.startswith("--address"))
    )
    with cluster(arguments, arguments.output / "cluster") as address:
        spread = side_by_side.contender(contender, "cluster", *options, f"--address={address}")
    for what in ("failures", "files", "records"):
        if alone[what] != spread[what]:
            sys.exit(f"On the cluster {what} differ: not the same work.")

    print(f"\n{side_by_side.machine()}\n")
    panels = len(alone["files"])
    print(
        json.dumps(
            {
                "stories": arguments.stories,
                "panels": panels,
                "equal": True,
                "alone_s": alone["seconds"],
                "cluster_s": spread["seconds"],
                "killed": arguments.kill,
            }
        )
    )


if __name__ == "__main__":
    main()
