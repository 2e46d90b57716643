"""How fast is a set cleaned?  python -m benchmarks.cleaning [--images 2000] [--growth]

Pictures are made up (384 to 768 pixels, JPEG, some too small, too wide, blurred, repeated or
without a caption) and cleaned by ``recipes/sample.yaml``: by Data-Juicer's own command
``dj-process`` with the recipe's operators one after another, and by ours, each alone in a process
of its own, start-up included; both must keep the same pictures. The floor is a pool of processes
that decodes each picture once with Pillow, and does nothing else. ``--growth`` cleans, and caches
latents of, 100, 500 and 2,000 pictures and shows time a picture and the peak of memory. The last
line is JSON.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN, ROOT

SIZES = (100, 500, 2000)  # of --growth
TITLES = {"ours": "storyboard", "dj": "dj-process", "floor": "decode once"}


def make(folder: Path, count: int) -> Path:
    """A Captions folder of ``count`` made up pictures, the same every time."""
    if (folder / "metadata.jsonl").is_file():
        return folder
    side_by_side.fresh(folder / "images")
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(_picture, [folder] * count, range(count), chunksize=16)
        for index, text in enumerate(texts):
            name = f"{index:05d}"
            rows.append({"id": name, "text": text, "images": [f"images/{name}.jpg"]})
    _write_lines(folder / "metadata.jsonl", rows)
    return folder


def _write_lines(path: Path, rows: list[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _picture(folder: Path, index: int) -> str:
    """Draw picture ``index``; one in ten has a flaw. Returns its caption."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    flaw = index % 50 if index % 50 in (5, 15, 25, 35, 45) else None
    rng = random.Random(index - 1 if flaw == 25 else index)  # a repetition of the one before
    size = rng.randrange(384, 769), rng.randrange(384, 769)
    if flaw == 5:
        size = 150, 150
    if flaw == 15:
        size = 768, 300
    grain = (
        np.random.default_rng(rng.randrange(2**32))
        .normal(128, 40, (size[1] // 8, size[0] // 8))
        .clip(0, 255)
        .astype(np.uint8)
    )
    image = Image.fromarray(grain).convert("RGB").resize(size, Image.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        left, top = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse(
            (left, top, left + rng.randrange(20, 200), top + rng.randrange(20, 200)),
            tuple(rng.randrange(256) for _ in range(3)),
            "black",
        )
    if flaw == 35:
        image = image.filter(ImageFilter.GaussianBlur(12))
    image.save(folder / "images" / f"{index:05d}.jpg", quality=80 if flaw == 25 else 92)
    return "" if flaw == 45 else f"picture {index}, circles"


def ours(folder: Path, output: Path) -> dict:
    from dataclasses import asdict

    from storyboard import Settings, clean
    from storyboard.data.captions import Captions

    report = clean(Captions.load(folder), Settings(base="mini", output=str(output)))
    return {
        "kept": sorted(row.id for row in report.captions.rows),
        "operators": [asdict(each) for each in report.operators],
    }


def dj(folder: Path, output: Path) -> dict:
    """The command as its manual has it; our operators by ``custom_operator_paths``."""
    import yaml

    recipe = yaml.safe_load((ROOT / "recipes" / "sample.yaml").read_text(encoding="utf-8"))
    source = output / "captions.jsonl"
    rows = _read_lines(folder / "metadata.jsonl")
    _write_lines(
        source,
        [row | {"images": [str((folder / row["images"][0]).resolve())]} for row in rows],
    )
    config = {
        "project_name": "benchmark",
        "dataset_path": str(source.resolve()),
        "export_path": str((output / "kept.jsonl").resolve()),
        "np": os.cpu_count(),
        "process": recipe["process"],
        "custom_operator_paths": [str(ROOT / "storyboard" / "data" / "model_operators.py")],
        "open_tracer": False,
        "use_cache": False,
        "work_dir": str((output / "work").resolve()),
    }
    (output / "recipe.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    _dj_process(output / "recipe.yaml", output / "cache")
    kept = _read_lines(output / "kept.jsonl")
    return {"kept": sorted(str(row["id"]).zfill(5) for row in kept)}


def _dj_process(recipe: Path, cache: Path) -> None:
    """Run the command without a network, which it would install packages from."""
    offline = {
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_DATASETS_CACHE": str(cache.resolve()),
        "PYTHONPATH": str(ROOT),  # our operators import this package
    }
    process = subprocess.run(
        [str(Path(sys.executable).with_name("dj-process")), "--config", str(recipe)],
        env=os.environ | offline,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"dj-process ended with exit code {process.returncode}:\n{process.stdout[-3000:]}")


def floor(folder: Path, output: Path) -> dict:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return {
            "pixels": sum(pool.map(_decode, sorted((folder / "images").iterdir()), chunksize=32))
        }


def _decode(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.width * image.height


def cached(folder: Path, output: Path) -> dict:
    """Caching alone, of a set that is not cleaned."""

    from storyboard import Settings
    from storyboard.data.captions import Captions
    from storyboard.models.run import resolve
    from storyboard.training import cache

    run = resolve(Settings(base="mini", output=str(output)))
    began = time.perf_counter()
    cache.prepare(Captions.load(folder), run)
    return {"caching_s": time.perf_counter() - began}


CONTENDERS = {"ours": ours, "dj": dj, "floor": floor, "cached": cached}


def growth(output: Path) -> None:
    """Time a picture and peak of memory at several sizes."""
    rows = []
    for count in SIZES:
        make(output / f"pictures-{count}", count)
        options = f"--images={count}", f"--output={output}"
        clean = side_by_side.contender("benchmarks.cleaning", "ours", *options)
        cache = side_by_side.contender("benchmarks.cleaning", "cached", *options)
        operators = sum(operator["seconds"] for operator in clean["operators"])
        rows.append(
            {
                "pictures": count,
                "cleaning s": clean["seconds"],
                "of it operators, ms a picture": 1000 * operators / count,
                "cleaning peak MB": clean["peak_mb"],
                "caching s": cache["caching_s"],
                "caching ms a picture": 1000 * cache["caching_s"] / count,
                "caching peak MB": cache["peak_mb"],
            }
        )
    print(side_by_side.table(rows), "\n")


def measure(name: str, folder: Path, output: Path) -> dict:
    """One contender, in this process."""
    result = CONTENDERS[name](folder, side_by_side.fresh(output / name))
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    seconds = time.perf_counter() - BEGAN
    return result | {"seconds": seconds, "peak_mb": round(peak / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark-cleaning"))
    parser.add_argument(
        "--contender", choices=CONTENDERS, help="run this one alone, in this process"
    )
    arguments = parser.parse_args()
    folder = make(arguments.output / f"pictures-{arguments.images}", arguments.images)
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, folder, arguments.output)))
        return

    options = f"--images={arguments.images}", f"--output={arguments.output}"
    results = {
        name: side_by_side.contender("benchmarks.cleaning", name, *options) for name in TITLES
    }
    ours, dj, floor = (results[name] for name in ("ours", "dj", "floor"))
    if ours["kept"] != dj["kept"]:
        sys.exit(
            f"ours kept {len(ours['kept'])} pictures, dj-process {len(dj['kept'])}: "
            "not the same work."
        )
    print(f"\n{side_by_side.machine()}\n{arguments.images} pictures\n")
    print(f"{table(results, arguments.images)}\n\n{operator_table(ours)}\n")
    if arguments.growth:
        growth(arguments.output)
    shutil.rmtree(arguments.output / "dj")
    ratios = {
        "ratio_dj": round(dj["wall_s"] / ours["wall_s"], 2),
        "ratio_floor": round(ours["wall_s"] / floor["wall_s"], 2),
    }
    print(json.dumps(ratios))


def table(results: dict[str, dict], images: int) -> str:
    rows = [
        {
            "": TITLES[name],
            "seconds": result["wall_s"],
            "ms a picture": 1000 * result["wall_s"] / images,
            "times the floor": result["wall_s"] / results["floor"]["wall_s"],
            "peak MB": result["peak_mb"],
            "kept": len(result["kept"]) if "kept" in result else None,
        }
        for name, result in results.items()
    ]
    return side_by_side.table(rows)


def operator_table(ours: dict) -> str:
    """Where the seconds of ours go."""
    rows = [
        {
            "operator of ours": operator["operator"],
            "seconds": operator["seconds"],
            "dropped": operator["dropped"],
        }
        for operator in ours["operators"]
    ]
    rest = ours["wall_s"] - sum(operator["seconds"] for operator in ours["operators"])
    start = "start-up (imports), table, copying"
    rows.append({"operator of ours": start, "seconds": rest, "dropped": None})
    return side_by_side.table(rows)


if __name__ == "__main__":
    main()
