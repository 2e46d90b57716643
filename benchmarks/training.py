"""How fast is a LoRA trained?  python -m benchmarks.training [--base mini] [--samples 3600]

Ours against DiffSynth-Studio's own loop and against the settings of diffusers' SDXL LoRA script,
each alone in a process of its own, on the same pictures, weights, modules, rank, resolution,
precision and number of samples seen. Every tenth picture of the cleaned sample set is held out; on
these, with fixed noise and timesteps, all are measured by the same mean squared error of the noise.
Start-up (imports and loading) and caching count, and are shown apart; measuring the loss does not
count. ``--base sd15-tiny`` and its like are tiny random weights, to see that all runs. The last
line is JSON.

DiffSynth: ``launch_training_task`` as it is, with its data set class and a training module like its
example's, batch 1. diffusers: ``examples/text_to_image/train_text_to_image_lora_sdxl.py`` written
out, with the batch size of ours. Learning rates are each one's own default: 1e-4 constant for the
peers; ``--peer-learning-rate`` gives them another.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN

TITLES = {"ours": "storyboard", "diffusers": "diffusers' script", "diffsynth": "DiffSynth's loop"}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolved(arguments: argparse.Namespace, name: str):
    """The run that all contenders train, in the folder ``name``."""
    from storyboard import Settings
    from storyboard.models.run import resolve

    settings = Settings(
        base=arguments.base,
        output=str(arguments.output / "benchmark-training" / name),
        train_batch_size=arguments.batch,
        resolution=arguments.resolution,
    )
    run = resolve(settings)
    if arguments.samples is None:
        return run
    return replace(run, train_steps=-(-arguments.samples // run.train_batch_size))


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """One contender, in this process."""
    import torch

    from benchmarks.training_contenders import CONTENDERS, Task
    from benchmarks.training_validation import Validation

    folder = arguments.output / "benchmark-training"
    side_by_side.fresh(folder / name)
    run = resolved(arguments, name)
    torch.manual_seed(run.seed)

    def watch() -> Validation:
        return Validation(run, folder / "validation", arguments.samples)

    task = Task(run, folder / "train", arguments.samples, arguments.peer_learning_rate, watch)
    outcome = CONTENDERS[name](task)
    return {
        "startup_s": outcome.startup,
        "caching_s": outcome.caching,
        "training_s": outcome.end - BEGAN - outcome.startup - outcome.caching,
        "losses": [loss for _, loss in outcome.watch.curve],
        "seconds": [seconds - BEGAN for seconds, _ in outcome.watch.curve],
    }


def split(arguments: argparse.Namespace, folder: Path) -> tuple[int, int]:
    """The cleaned sample set as two Captions folders, every tenth picture held out; their sizes."""
    from storyboard import Settings, clean, collect
    from storyboard.data.writing import write

    settings = Settings(base=arguments.base, output=str(folder / "data"))
    captions = clean(collect(settings), settings).captions
    # those that no step would come to are not cached
    train = [row for index, row in enumerate(captions.rows) if index % 10][: arguments.samples]
    held_out = captions.rows[::10]
    for name, rows in (("train", train), ("validation", held_out)):
        texts = {row.id: row.text for row in rows}
        write(replace(captions, rows=rows), texts, side_by_side.fresh(folder / name))
    return len(train), len(held_out)


def arithmetic(arguments: argparse.Namespace) -> float:
    """Floating point operations of a training step for one picture, counted by PyTorch."""
    from benchmarks import lora_step
    from storyboard.data.captions import Captions
    from storyboard.training import cache

    run = resolved(arguments, "ours")
    captions = Captions.load(arguments.output / "benchmark-training" / "train")
    cached = cache.prepare(captions, run)
    return lora_step.flops(lora_step.load(run), cached, run.train_batch_size)


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini")
    parser.add_argument(
        "--samples",
        type=int,
        help="pictures seen in training, repetitions counted; None: as in the base's own training",
    )
    parser.add_argument(
        "--batch", type=int, help="of ours and of diffusers' script; None: the base's default"
    )
    parser.add_argument("--peer-learning-rate", type=float, default=1e-4)
    parser.add_argument("--resolution", type=int, help="None: the base's own")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--contender", choices=TITLES, help="run this one alone, in this process")
    arguments = parser.parse_args()
    arguments.base = side_by_side.base_named(
        arguments.base, arguments.output / "benchmark-training"
    )
    return arguments


def main() -> None:
    arguments = command_line()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments)))
        return

    run = resolved(arguments, "ours")
    arguments.samples = arguments.samples or run.train_steps * run.train_batch_size
    train, held_out = split(arguments, arguments.output / "benchmark-training")
    options = side_by_side.options(arguments)
    results = {
        name: side_by_side.contender("benchmarks.training", name, *options) for name in TITLES
    }
    print(f"\n{side_by_side.machine()}")
    print(f"{arguments.samples} samples of {train} pictures, {held_out} held out, ", end="")
    print(f"base {arguments.base}\n\n{table(results, arguments.samples)}\n")

    work, rate = arithmetic(arguments), side_by_side.matrix_rate(DTYPES[run.plan.precision])
    limit = rate / work  # pictures a second
    reached = arguments.samples / results["ours"]["training_s"] / limit
    print(
        f"limit: {work / 1e9:.2f} GFLOP a picture, matrices at {rate / 1e9:,.0f} GFLOP/s ", end=""
    )
    print(f"({DTYPES[run.plan.precision]}): {limit:.1f} images/s; ", end="")
    print(f"ours, training alone: {reached:.0%} of it\n")
    print(json.dumps(ratios(results)))


def table(results: dict[str, dict], samples: int) -> str:
    """Add to each result its rate and when it reached DiffSynth's last loss; all as a table."""
    target = results["diffsynth"]["losses"][-1]
    rows = []
    for name, result in results.items():
        total = result["startup_s"] + result["caching_s"] + result["training_s"]
        curve = zip(result["seconds"], result["losses"], strict=True)
        result["rate"] = samples / total
        result["reached"] = next((seconds for seconds, loss in curve if loss <= target), None)
        rows.append(
            {
                "": TITLES[name],
                "start-up s": result["startup_s"],
                "caching s": result["caching_s"],
                "training s": result["training_s"],
                "images/s": result["rate"],
                "training alone": samples / result["training_s"],
                f"s to loss {target:.4f}": result["reached"],
                "final loss": f"{result['losses'][-1]:.4f}",
            }
        )
    return side_by_side.table(rows)


def ratios(results: dict[str, dict]) -> dict[str, float | None]:
    """How many times as fast ours is, and the last losses."""
    ours, diffsynth = results["ours"], results["diffsynth"]
    diffusers = results["diffusers"]
    to_loss = round(diffsynth["reached"] / ours["reached"], 2) if ours["reached"] else None
    return {
        "ratio_diffsynth": round(ours["rate"] / diffsynth["rate"], 2),
        "ratio_diffusers": round(ours["rate"] / diffusers["rate"], 2),
        "loss_ours": round(ours["losses"][-1], 4),
        "loss_diffsynth": round(diffsynth["losses"][-1], 4),
        "loss_diffusers": round(diffusers["losses"][-1], 4),
        "ratio_time_to_loss": to_loss,
    }


if __name__ == "__main__":
    main()
