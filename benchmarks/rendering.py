"""How fast are eight panels?  python -m benchmarks.rendering [--base mini]

The 2024 way, DiffSynth-Studio's pipeline called once a panel with 50 steps; a plain loop over
diffusers' pipeline, one panel at a time with its default of 50 steps; ours with its defaults. Same
weights, LoRA, prompts, negative prompts, seeds and guidance scale. Loading and text encoding count,
imports are shown apart: in a notebook they are done before. What is drawn is scored by the
classifier of ``benchmarks.prompt_following`` on 40 further prompts: the style of the LoRA, and
hair, clothes, background, expression as asked. Other bases than mini are drawn without LoRA and not
scored. The last line is JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN

TITLES = {"ours": "storyboard", "diffusers": "diffusers, a loop", "diffsynth": "DiffSynth, 2024"}
FOLLOWED = ("hair_color", "background", "clothes_color", "expression", "hair_length")


def attributes(scored: bool) -> list[dict]:
    """What the eight panels show, or the 40 that are scored."""
    from benchmarks import prompt_following

    rows = prompt_following.prompts()
    return [row | {"style": "lorelei"} for row in (rows[1::3] if scored else rows[::15])]


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """One contender, in this process."""
    from benchmarks.rendering_contenders import CONTENDERS, Task, import_all
    from storyboard import Settings
    from storyboard.models.run import resolve

    folder = side_by_side.fresh(arguments.output / "benchmark-rendering" / name)
    settings = Settings(base=arguments.base, output=str(folder), resolution=arguments.resolution)
    run = resolve(settings)
    prompts = _prompts(attributes(scored=False))
    task = Task(settings, run, prompts, arguments.lora, arguments.peer_steps)
    import_all(run)

    imported = time.perf_counter()
    paths = CONTENDERS[name](task)
    drawn = time.perf_counter()
    assert len(paths) == 8
    result = {"imports_s": imported - BEGAN, "seconds": drawn - imported, "scores": None}

    if arguments.base == "mini" and not arguments.unscored:
        rows = attributes(scored=True)
        settings = settings.but(output=str(folder / "scored"))
        run = replace(run, settings=settings, folder=settings.folder)
        task = Task(settings, run, _prompts(rows), arguments.lora, arguments.peer_steps)
        result["scores"] = _scores(CONTENDERS[name](task), rows)
    return result


def _prompts(rows: list[dict]) -> list:
    from benchmarks import prompt_following
    from benchmarks.rendering_contenders import Prompt
    from tools.captions import caption

    negative = prompt_following.NEGATIVE["zh"]
    return [Prompt(caption(row, "zh"), negative, 1000 + index) for index, row in enumerate(rows)]


def _scores(paths: list[Path], rows: list[dict]) -> dict[str, float]:
    import numpy as np

    from storyboard.models import classifier

    pixels = np.stack([classifier.pixels(path) for path in paths])
    return classifier.accuracy(classifier.read(classifier.load(), pixels), rows)


def arithmetic(arguments: argparse.Namespace) -> float:
    """Floating point operations of eight panels in ours, counted by PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks import full_size
    from storyboard import Settings
    from storyboard.models.run import resolve
    from storyboard.rendering import sampling

    run = resolve(Settings(base=arguments.base, resolution=arguments.resolution))
    pipe = sampling.load_pipeline(run.base, run.plan)
    embeddings = [full_size.random_embedding(run.base, pipe.unet, pipe.unet.dtype)]
    side = run.resolution // 8
    latents = torch.zeros(1, 4, side, side, device=run.plan.device)
    with FlopCounterMode(display=False) as denoising:
        sampling.denoise(pipe, embeddings, embeddings, [0], run.resolution, 2, run.guidance_scale)
    with FlopCounterMode(display=False) as decoding:
        sampling.decode(pipe, latents)
    step = denoising.get_total_flops() / 2
    return 8 * (step * run.num_inference_steps + decoding.get_total_flops())


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini")
    parser.add_argument(
        "--lora", type=Path, help="a LoRA file instead of the one that the defaults train"
    )
    parser.add_argument("--resolution", type=int, help="None: the base's own")
    parser.add_argument("--peer-steps", type=int, default=side_by_side.PEER_STEPS)
    parser.add_argument("--unscored", action="store_true", help="time the eight panels alone")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs"),
        help="where the LoRA of a notebook run may lie already",
    )
    parser.add_argument("--contender", choices=TITLES, help="run this one alone, in this process")
    arguments = parser.parse_args()
    arguments.base = side_by_side.base_named(
        arguments.base, arguments.output / "benchmark-rendering"
    )
    return arguments


def main() -> None:
    arguments = command_line()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments)))
        return

    from storyboard import Settings, clean, collect, train

    if arguments.base == "mini" and not arguments.lora:
        settings = Settings(base="mini", output=str(arguments.output))
        arguments.lora = train(clean(collect(settings), settings).captions, settings).path
    options = side_by_side.options(arguments)
    results = {
        name: side_by_side.contender("benchmarks.rendering", name, *options) for name in TITLES
    }
    print(f"\n{side_by_side.machine()}\n\n{table(results)}\n")

    work, rate = arithmetic(arguments), side_by_side.matrix_rate()
    print(f"limit: {work / 1e9:,.0f} GFLOP in ours, matrices at {rate / 1e9:,.0f} GFLOP/s ", end="")
    print(f"(fp32): {work / rate:.1f} s\n")
    print(json.dumps(ratios(results)))


def table(results: dict[str, dict]) -> str:
    """Add to each result how well prompts were followed; all as a table."""
    rows = []
    for name, result in results.items():
        scores = result["scores"]
        if scores:
            result["followed"] = mean(scores[attribute] for attribute in FOLLOWED)
        rows.append(
            {
                "": TITLES[name],
                "imports s": result["imports_s"],
                "eight panels s": result["seconds"],
                "times ours": result["seconds"] / results["ours"]["seconds"],
                "prompts followed %": result.get("followed"),
                "style %": scores["style"] if scores else None,
            }
        )
    return side_by_side.table(rows)


def ratios(results: dict[str, dict]) -> dict[str, float | None]:
    """How many times as fast ours is, and the scores."""
    ours, diffsynth = results["ours"], results["diffsynth"]
    found = {
        "ratio_diffsynth": round(diffsynth["seconds"] / ours["seconds"], 2),
        "ratio_diffusers": round(results["diffusers"]["seconds"] / ours["seconds"], 2),
    }
    for name, result in (("ours", ours), ("diffsynth", diffsynth)):
        if result["scores"]:
            found[f"score_{name}"] = round(result["followed"], 1)
            found[f"style_{name}"] = result["scores"]["style"]
        else:
            found[f"score_{name}"] = None
    return found


if __name__ == "__main__":
    main()
