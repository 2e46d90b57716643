"""How fast is a set cleaned?  python -m benchmarks.cleaning [--images 2000] [--growth]

Pictures are made up (384 to 768 pixels, JPEG, some too small, too wide, blurred, repeated or without a caption) and
cleaned by ``recipes/sample.yaml``: by Data-Juicer's own command ``dj-process`` with the recipe's operators one after
another, and by ours, each alone in a process of its own, start-up included; both must keep the same pictures. The
floor is a pool of processes that decodes each picture once with Pillow, and does nothing else. ``--growth`` cleans,
and caches latents of, 100, 500 and 2,000 pictures and shows time a picture and the peak of memory. The last line is
JSON.
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
from dataclasses import asdict
from pathlib import Path

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN, ROOT
from storyboard.models.run import run_on

SIZES = (100, 500, 2000)  # of --growth
TITLES = {"ours": "storyboard", "dj": "dj-process", "floor": "decode once"}


def make(folder: Path, count: int) -> Path:
    """A Captions folder of ``count`` made up pictures, the same every time."""
    if (folder / "metadata.jsonl").is_file():
        return folder
    side_by_side.fresh(folder / "images")
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for place, text in enumerate(
            pool.map(_picture, [folder] * count, range(count), chunksize=16)
        ):
            rows.append({"id": f"{place:05d}", "text": text, "images": [f"images/{place:05d}.jpg"]})
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return folder


def _picture(folder: Path, place: int) -> str:
    """Draw picture ``place``; one in ten has a flaw. Returns its caption."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    flaw = place % 50 if place % 50 in (5, 15, 25, 35, 45) else None
    dice = random.Random(place - 1 if flaw == 25 else place)  # a repetition of the one before
    size = dice.randrange(384, 769), dice.randrange(384, 769)
    if flaw == 5:
        size = 150, 150
    if flaw == 15:
        size = 768, 300
    grain = (
        np.random.default_rng(dice.randrange(2**32))
        .normal(128, 40, (size[1] // 8, size[0] // 8))
        .clip(0, 255)
        .astype(np.uint8)
    )
    image = Image.fromarray(grain).convert("RGB").resize(size, Image.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        left, top = dice.randrange(size[0]), dice.randrange(size[1])
        pen.ellipse(
            (left, top, left + dice.randrange(20, 200), top + dice.randrange(20, 200)),
            tuple(dice.randrange(256) for _ in range(3)),
            "black",
        )
    if flaw == 35:
        image = image.filter(ImageFilter.GaussianBlur(12))
    image.save(folder / "images" / f"{place:05d}.jpg", quality=80 if flaw == 25 else 92)
    return "" if flaw == 45 else f"picture {place}, circles"


def ours(folder: Path, output: Path) -> dict:
    from storyboard import Settings, clean
    from storyboard.data.captions import Captions

    report = clean(Captions.load(folder), Settings(base="mini", output=str(output)))
    return {
        "kept": sorted(row.id for row in report.captions.rows),
        "operators": [asdict(count) for count in report.operators],
    }


def dj(folder: Path, output: Path) -> dict:
    """The command as its manual has it; our two operators by ``custom_operator_paths``."""
    import yaml

    process = yaml.safe_load((ROOT / "recipes" / "sample.yaml").read_text(encoding="utf-8"))[
        "process"
    ]
    rows = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    source = output / "captions.jsonl"
    source.write_text(
        "".join(
            json.dumps(row | {"images": [str((folder / row["images"][0]).resolve())]}) + "\n"
            for row in rows
        ),
        encoding="utf-8",
    )
    config = {
        "project_name": "benchmark",
        "dataset_path": str(source.resolve()),
        "export_path": str((output / "kept.jsonl").resolve()),
        "np": os.cpu_count(),
        "process": process,
        "custom_operator_paths": [str(ROOT / "storyboard" / "data" / "operators.py")],
        "open_tracer": False,
        "use_cache": False,
        "work_dir": str((output / "work").resolve()),
    }
    (output / "recipe.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    quiet = {
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_DATASETS_CACHE": str((output / "cache").resolve()),
    }
    command = [
        str(Path(sys.executable).with_name("dj-process")),
        "--config",
        str(output / "recipe.yaml"),
    ]
    process = subprocess.run(
        command, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if process.returncode:
        sys.exit(f"dj-process ended with exit code {process.returncode}:\n{process.stdout[-3000:]}")
    kept = [
        json.loads(line)
        for line in (output / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return {"kept": sorted(str(row["id"]).zfill(5) for row in kept)}


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
    from storyboard.models import bases
    from storyboard.training import cache

    settings = Settings(base="mini", output=str(output))
    base = bases.get("mini")
    began = time.perf_counter()
    cache.prepare(Captions.load(folder), run_on(base, settings))
    return {"caching_s": time.perf_counter() - began}


CONTENDERS = {"ours": ours, "dj": dj, "floor": floor, "cached": cached}


def growth(output: Path) -> None:
    """Time a picture and peak of memory at several sizes."""
    rows = []
    for count in SIZES:
        make(output / f"pictures-{count}", count)
        clean, cache = (
            side_by_side.contender(
                "benchmarks.cleaning", name, f"--images={count}", f"--output={output}"
            )
            for name in ("ours", "cached")
        )
        spent = sum(op["seconds"] for op in clean["operators"])
        rows.append(
            {
                "pictures": count,
                "cleaning s": clean["seconds"],
                "of it operators, ms a picture": 1000 * spent / count,
                "cleaning peak MB": clean["peak_mb"],
                "caching s": cache["caching_s"],
                "caching ms a picture": 1000 * cache["caching_s"] / count,
                "caching peak MB": cache["peak_mb"],
            }
        )
    print(side_by_side.table(rows), "\n")


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
        result = CONTENDERS[arguments.contender](
            folder, side_by_side.fresh(arguments.output / arguments.contender)
        )
        peak = (
            max(
                resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            / 1024
        )
        print(json.dumps(result | {"seconds": time.perf_counter() - BEGAN, "peak_mb": round(peak)}))
        return

    passed = [f"--images={arguments.images}", f"--output={arguments.output}"]
    found = {name: side_by_side.contender("benchmarks.cleaning", name, *passed) for name in TITLES}
    if found["ours"]["kept"] != found["dj"]["kept"]:
        sys.exit(
            f"ours kept {len(found['ours']['kept'])} pictures, dj-process {len(found['dj']['kept'])}: not the same work."
        )
    rows = [
        {
            "": TITLES[name],
            "seconds": one["wall_s"],
            "ms a picture": 1000 * one["wall_s"] / arguments.images,
            "times the floor": one["wall_s"] / found["floor"]["wall_s"],
            "peak MB": one["peak_mb"],
            "kept": len(one["kept"]) if "kept" in one else None,
        }
        for name, one in found.items()
    ]
    spent = [
        {"operator of ours": op["operator"], "seconds": op["seconds"], "dropped": op["dropped"]}
        for op in found["ours"]["operators"]
    ]
    rest = found["ours"]["wall_s"] - sum(op["seconds"] for op in found["ours"]["operators"])
    spent.append(
        {"operator of ours": "start-up (imports), table, copying", "seconds": rest, "dropped": None}
    )
    print(
        f"\n{side_by_side.machine()}\n{arguments.images} pictures\n\n{side_by_side.table(rows)}\n\n{side_by_side.table(spent)}\n"
    )
    if arguments.growth:
        growth(arguments.output)
    shutil.rmtree(arguments.output / "dj")
    print(
        json.dumps(
            {
                "ratio_dj": round(found["dj"]["wall_s"] / found["ours"]["wall_s"], 2),
                "ratio_floor": round(found["ours"]["wall_s"] / found["floor"]["wall_s"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
