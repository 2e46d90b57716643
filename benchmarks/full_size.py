"""Kolors at full size on this machine's processor:  python -m benchmarks.full_size

One training step and two drawing steps in bf16 with random weights: the peak of memory of each
beside what the memory plan counts with. Ends with an error where the plan is exceeded. The last
line is JSON.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import full_size_models, side_by_side

PARTS = ("training", "drawing")


def random_embedding(base, unet, dtype: torch.dtype):
    """Random text embeddings of one prompt, of the shapes that ``unet`` takes."""
    from storyboard.models.conditioning import Embedding

    config = unet.config
    width = config.encoder_hid_dim or config.cross_attention_dim
    pooled = 0
    if config.addition_embed_type:
        time_ids = 6 * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - time_ids
    return Embedding(
        torch.randn(base.text_length, width, dtype=dtype), torch.randn(pooled, dtype=dtype)
    )


def random_cache(pipe, resolution: int, pictures: int):
    """Random latents and embeddings of ``pictures``, as ``training.cache.prepare`` gives them."""
    from storyboard.training.cache import Cache

    bucket = (resolution, resolution)
    time_ids = torch.tensor([[*bucket, 0, 0, *bucket]] * pictures, dtype=torch.float32)
    return Cache(
        latents={bucket: torch.randn(pictures, 4, resolution // 8, resolution // 8)},
        time_ids={bucket: time_ids},
        captions={bucket: torch.zeros(pictures, dtype=torch.int64)},
        embeddings=[random_embedding(pipe.base, pipe.unet, pipe.torch_dtype)],
    )


def train(work: Path, side: int) -> dict[str, float]:
    """One training step of Kolors' UNet at ``side`` pixels: seconds, GiB measured and planned."""
    from benchmarks import lora_step
    from storyboard.models import memory

    run = _run(work, side)
    planned = memory.training_need(run.base, run.plan.precision, side)
    numbers = _PrintedNumbers({"training planned GiB": planned})
    began = time.perf_counter()
    with _peak(numbers, "training"):
        pipe = lora_step.load(run)
        pipe.unet.enable_gradient_checkpointing()
        numbers["training loaded s"] = time.perf_counter() - began
        run.folder.mkdir(parents=True, exist_ok=True)
        cache = random_cache(pipe, side, 1)
        lora_step.optimise(pipe, cache, run, run.folder, _ignore, micro_batch_size=1)
    numbers["training step and loading s"] = time.perf_counter() - began
    return dict(numbers)


def draw(work: Path, side: int) -> dict[str, float]:
    """Two drawing steps of Kolors at ``side`` pixels and the decoded picture, as ``train``."""
    from storyboard.models import memory
    from storyboard.rendering import sampling

    run = _run(work, side)
    planned = memory.drawing_need(run.base, run.plan.precision, side)
    numbers = _PrintedNumbers({"drawing planned GiB": planned})
    began = time.perf_counter()
    with _peak(numbers, "drawing"):
        pipe = sampling.load_pipeline(run.base, run.plan)
        numbers["drawing loaded s"] = time.perf_counter() - began
        embeddings = [random_embedding(run.base, pipe.unet, run.plan.dtype)]
        (picture,) = sampling.draw(pipe, embeddings, embeddings, [0], side, 2, 5.0)
    numbers["two drawing steps and loading s"] = time.perf_counter() - began
    picture.save(work / "picture.png")
    return dict(numbers)


def _ignore(_step) -> None:
    """Watch nothing."""


def _run(work: Path, side: int):
    """The run of this benchmark on the base below ``work``, written if it is not there."""
    from storyboard import Settings
    from storyboard.models import bases
    from storyboard.models.run import run_on

    hub, kolors = work / "hub", bases.get("kolors")
    os.environ["STORYBOARD_HUB"] = str(hub)
    if not (hub / kolors.modelscope / "unet").is_dir():
        full_size_models.write("kolors", hub, components=("unet", "vae"))
    settings = Settings(
        base="kolors",
        resolution=side,
        precision="bf16",
        gradient_checkpointing=True,
        train_batch_size=1,
        train_steps=1,
        output=str(work / "run"),
    )
    return run_on(replace(kolors, folder=hub / kolors.modelscope), settings)


class _PrintedNumbers(dict):
    """Numbers that are printed as soon as they are known: a run takes long, and may be stopped."""

    def __init__(self, known: dict[str, float]) -> None:
        for name, value in known.items():
            self[name] = value

    def __setitem__(self, name: str, value: float) -> None:
        super().__setitem__(name, value)
        print(f"{name}: {value:.2f}", flush=True)


@contextlib.contextmanager
def _peak(numbers: dict[str, float], name: str) -> Iterator[None]:
    """Note in GiB how far this process's memory rises inside, above what it had before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew (man 5 proc)
    before = _memory("VmRSS")
    yield
    numbers[f"{name} measured GiB"] = _memory("VmHWM") - before


def _memory(field: str) -> float:
    """``field`` of this process's status, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**20
    raise ValueError(f"/proc/self/status has no {field}.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("outputs/full-size"),
        help="folder for 5.3 GB of random weights",
    )
    parser.add_argument("--resolution", type=int, default=512)
    arguments = parser.parse_args()

    numbers: dict[str, float] = {}
    for part in (train, draw):
        # a process each: what the allocator kept of one half would hide the need of the other
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            numbers |= process.submit(part, arguments.work, arguments.resolution).result()
    rows = [{"": name, "value": value} for name, value in numbers.items()]
    print(side_by_side.table(rows))

    over = [
        part for part in PARTS if numbers[f"{part} measured GiB"] > numbers[f"{part} planned GiB"]
    ]
    rounded = {name: round(value, 2) for name, value in numbers.items()}
    print(json.dumps(rounded | {"over": over}))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
