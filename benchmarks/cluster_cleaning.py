"""Is a set cleaned alike on a cluster?  python -m benchmarks.cluster_cleaning [--pictures 5000]

Small flat drawings are made up, some repeated, blurred, too small, broken or without a caption, and
cleaned by ``recipes/sample.yaml`` on one machine and by a Ray, each in a process of its own. Ends
with an error where what is kept, why the rest goes, what was measured or a file differs. Without
``--address`` it starts a Ray of two nodes with one CPU each on this machine. The last line is JSON.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import side_by_side

SIDE = 256  # pixels
FLAWS = ("repeated", "blurred", "small", "broken", "uncaptioned")
PER_FLAW = 25  # pictures, of which one has it
COMPARED = ("metadata.jsonl", "metadata.csv", "statistics.json")
WORKER = "ray::"  # how titles of processes begin that do Ray's work
LOOK = 0.5  # seconds between looks at their memory


def make(folder: Path, count: int) -> Path:
    """A Captions folder of ``count`` made up pictures, the same every time."""
    if (folder / "metadata.jsonl").is_file():
        return folder
    side_by_side.fresh(folder / "images")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_picture, [folder] * count, range(count), chunksize=64))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _picture(folder: Path, index: int) -> dict:
    """Draw picture ``index``; returns its row."""
    from PIL import Image, ImageDraw, ImageFilter

    flaw = dict(enumerate(FLAWS, 1)).get(index % PER_FLAW)
    chance = random.Random(index - (flaw == "repeated"))
    image = Image.new("RGB", (SIDE, SIDE), _colour(chance))
    pen = ImageDraw.Draw(image)
    for _ in range(24):
        left, top = chance.randrange(SIDE), chance.randrange(SIDE)
        right, bottom = left + chance.randrange(8, 120), top + chance.randrange(8, 120)
        pen.ellipse((left, top, right, bottom), _colour(chance), "black")
    if flaw == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(9))
    if flaw == "small":
        image = image.resize((120, 120))

    path = folder / "images" / f"{index:06d}.jpg"
    image.save(path, quality=80 if flaw == "repeated" else 92)
    if flaw == "broken":
        path.write_bytes(path.read_bytes()[:2000])
    text = "" if flaw == "uncaptioned" else f"picture {index}, circles"
    return {"id": f"{index:06d}", "text": text, "images": [f"images/{path.name}"]}


def _colour(chance: random.Random) -> tuple[int, ...]:
    return tuple(chance.randrange(256) for _ in range(3))


def clean(folder: Path, output: Path, address: str | None) -> dict:
    """Clean the set of ``folder``; what came of it."""
    from storyboard import Settings
    from storyboard import clean as run
    from storyboard.data.captions import Captions

    captions = Captions.load(folder)
    settings = Settings(base="mini", output=str(output), cluster=address)
    loaded = _peak()
    began = time.perf_counter()
    report = run(captions, settings)
    cleaned = output / "cleaned"
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "loaded_mb": loaded,
        "peak_mb": _peak(),
        "kept": len(report.captions),
        "operators": [(each.operator, each.kept, each.dropped) for each in report.operators],
        "dropped": [(row.id, row.operator, row.reason) for row in report.dropped],
        "files": {name: (cleaned / name).read_text(encoding="utf-8") for name in COMPARED},
    }


def _peak() -> int:
    """Of this process, in MB; its children are not counted."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@contextlib.contextmanager
def workers_peak(ray) -> Iterator[list[int]]:
    """Ends with the most memory in MB that one worker of ``ray`` had to itself.

    Args:
        ray: ``tests.ray_cluster.TwoNodes``; None measures nothing.
    """
    nodes = ray.nodes if ray else []
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            peak[0] = max(peak[0], *_workers_memory(nodes), 0)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield peak
    finally:
        ended.set()
        watch.join()


def _workers_memory(nodes: list) -> list[int]:
    """Of each worker, in MB, without what it shares: mapped libraries, Ray's store of objects."""
    import psutil

    from tests.ray_cluster import of_node

    found = []
    for process in (each for node in nodes for each in of_node(node)):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(WORKER):
                memory = process.memory_info()
                found.append(round((memory.rss - memory.shared) / 2**20))
    return found


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[tuple[str, Any]]:
    """``address`` and None, or those of a Ray that is started for it and that Ray."""
    if address:
        yield address, None
        return
    from tests.ray_cluster import TwoNodes

    ray = TwoNodes()
    try:
        yield ray.address, ray
    finally:
        ray.end()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--address", help='of a Ray: "host:port" or "local"')
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark-cluster-cleaning"))
    parser.add_argument(
        "--contender", choices=("alone", "cluster"), help="run this one alone, in this process"
    )
    arguments = parser.parse_args()
    folder = make(arguments.output / f"pictures-{arguments.pictures}", arguments.pictures)
    if name := arguments.contender:
        output = side_by_side.fresh(arguments.output / name)
        print(json.dumps(clean(folder, output, arguments.address)))
        return

    options = f"--pictures={arguments.pictures}", f"--output={arguments.output}"
    contender = "benchmarks.cluster_cleaning"
    alone = side_by_side.contender(contender, "alone", *options)
    with cluster(arguments.address) as (address, ray), workers_peak(ray) as peak:
        spread = side_by_side.contender(contender, "cluster", *options, f"--address={address}")
    for what in ("kept", "operators", "dropped", "files"):
        if alone[what] != spread[what]:
            sys.exit(f"On the cluster {what} differs: not the same work.")

    print(f"\n{side_by_side.machine()}\n")
    if ray:
        spread["worker_mb"] = peak[0]
    results = {"one machine": alone, "cluster": spread}
    print(side_by_side.table([row(name, results[name], arguments.pictures) for name in results]))
    print(json.dumps({name: _numbers(result) for name, result in results.items()}))


def row(name: str, result: dict, count: int) -> dict:
    numbers = _numbers(result)
    return {
        "": name,
        "seconds": numbers["seconds"],
        "ms a picture": 1000 * numbers["seconds"] / count,
        "kept": numbers["kept"],
        "peak of the head, MB": numbers["peak_mb"],
        "of a worker, MB": numbers.get("worker_mb"),
    }


def _numbers(result: dict) -> dict:
    names = "seconds", "loaded_mb", "peak_mb", "worker_mb", "kept"
    return {name: result[name] for name in names if name in result}


if __name__ == "__main__":
    main()
