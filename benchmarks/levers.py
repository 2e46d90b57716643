"""What does each lever bring?  python -m benchmarks.levers [--repeats 7] [--compile]

Ours on ``mini`` with its defaults, then the same with one lever at a time taken away: seconds of a
training step for a picture, and of eight panels. Medians; a lever's factor is the median without it
over the median with it, measured in turns so that a slow minute meets both. ``--compile`` adds
diffusers' regional ``torch.compile``, its compilation counted and shown apart. The last line is
JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import side_by_side
from storyboard.models.run import resolve

PANELS = 8


def training(output: Path, repeats: int, compiled: bool) -> list[dict]:
    """Seconds of a training step for a picture, with and without each lever."""
    import torch

    from benchmarks import lora_step
    from storyboard import Settings, clean, collect
    from storyboard.training import cache

    settings = Settings(base="mini", output=str(output))
    run = resolve(settings)
    captions = clean(collect(settings), settings).captions
    cached = cache.prepare(captions, run)
    bucket, indices = lora_step.first_batch(cached, run.train_batch_size)

    def step(pipe, some=indices, layout: torch.memory_format = torch.channels_last) -> float:
        began = time.perf_counter()
        lora_step.backward(pipe, cached, bucket, some, layout)
        return (time.perf_counter() - began) / len(some)

    ours = lora_step.load(run)
    texts = [captions.rows[index].text for index in range(len(indices))]
    encode = _encoder(run, texts, bucket)
    without: dict[str, Callable[[], float]] = {
        "cached latents and embeddings": lambda: encode() + step(ours),
        f"batches of {len(indices)}": partial(step, ours, indices[:1]),
        "LoRA in the drawing half of the UNet alone": partial(step, _on_the_whole_unet(run)),
        "channels last": partial(step, _channels_first(run), layout=torch.contiguous_format),
        "no gradient checkpointing": partial(step, _checkpointing(run)),
        "LoRA inside the weights, not beside them (fp32)": partial(step, _as_branches(run)),
        "equal padding tokens as one key (fp32)": partial(step, _padded(run)),
    }
    ours_step = partial(step, ours)
    rows = _measured("training step, ms a picture", ours_step, without, repeats, 1000)
    return rows + (_compiled(ours.unet, ours_step, repeats, 1000) if compiled else [])


def _encoder(run, texts: list[str], bucket: tuple[int, int]) -> Callable[[], float]:
    """What encodes a batch of pictures and captions; seconds a picture."""
    import torch

    from benchmarks import diffsynth_peer
    from storyboard.training.pipeline import TrainingPipeline

    plan = run.plan
    vae = TrainingPipeline.load(run.base, ("vae",), plan.device, plan.dtype)
    text_pipeline = diffsynth_peer.text_pipeline(run.base, plan.dtype, plan.device)

    def encode() -> float:
        began = time.perf_counter()
        vae.encode_images(torch.zeros(len(texts), 3, *bucket))
        with torch.no_grad():
            text_pipeline.encode_prompt(
                prompt=texts,
                device=torch.device(plan.device),
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        return (time.perf_counter() - began) / len(texts)

    return encode


def _on_the_whole_unet(run):
    from benchmarks import lora_step

    targets = run.base.lora_targets[0].replace(r"(mid_block|up_blocks)\.", "")
    return lora_step.load(replace(run, base=replace(run.base, lora_targets=(targets,))))


def _channels_first(run):
    import torch

    from benchmarks import lora_step

    pipe = lora_step.load(run)
    pipe.unet.to(memory_format=torch.contiguous_format)
    for module in pipe.unet.modules():
        module._forward_hooks.clear()
    return pipe


def _checkpointing(run):
    from benchmarks import lora_step

    pipe = lora_step.load(run)
    pipe.unet.enable_gradient_checkpointing()
    return pipe


def _as_branches(run):
    from benchmarks import lora_step

    pipe = lora_step.load(run)
    for module in pipe.unet.modules():
        module.__dict__.pop("forward", None)  # peft's own again
    return pipe


def _padded(run):
    from benchmarks import lora_step

    pipe = lora_step.load(run)
    for module in pipe.unet.modules():
        module._forward_pre_hooks.clear()
    return pipe


def rendering(output: Path, repeats: int, compiled: bool) -> list[dict]:
    """Seconds of eight panels, with and without each lever."""
    import torch

    from storyboard import Settings
    from storyboard.lora.attaching import attach
    from storyboard.models import conditioning
    from storyboard.rendering import sampling

    run = resolve(Settings(base="mini", output=str(output)))
    prompt, negative = "二次元，紫色短发女孩，微笑，白色衣服，教室", "模糊，低质量"
    embeddings = conditioning.encode(run, [prompt, negative])
    lora = output / "lora" / "lora.safetensors"
    lora = lora if lora.is_file() else None
    ours, plain, wide = (sampling.load_pipeline(run.base, run.plan, lora) for _ in range(3))
    plain.unet.to(memory_format=torch.contiguous_format)
    wide.vae.to(memory_format=torch.contiguous_format)

    def eight(
        pipe=ours,
        steps: int = run.num_inference_steps,
        end: float = run.guidance_end,
        size: int = run.render_batch_size,
    ) -> float:
        began = time.perf_counter()
        for start in range(0, PANELS, size):
            seeds = list(range(start, min(start + size, PANELS)))
            positive = [embeddings[prompt]] * len(seeds)
            negatives = [embeddings[negative]] * len(seeds)
            drawn = sampling.draw(
                pipe,
                positive,
                negatives,
                seeds,
                run.resolution,
                steps,
                run.guidance_scale,
                end,
            )
            list(drawn)
        return time.perf_counter() - began

    steps = f"{run.num_inference_steps} steps of DPM-Solver++ 2M instead of 50"
    early = "guidance only in the first 60 % of the steps (not used: softer lines)"
    without = {
        steps: partial(eight, steps=50),
        early: partial(eight, end=0.6),
        f"{run.render_batch_size} panels at once": partial(eight, size=1),
        "UNet channels last": partial(eight, plain),
        "VAE channels last": partial(eight, wide),
    }
    if lora:
        branches = sampling.load_pipeline(run.base, run.plan)
        attach(branches, run.base, lora)
        without["LoRA added to the weights"] = partial(eight, branches)
    rows = _measured("eight panels, s", eight, without, repeats, 1)
    return rows + (_compiled(ours.unet, eight, repeats, 1) if compiled else [])


def _measured(
    what: str,
    ours: Callable[[], float],
    without: dict[str, Callable[[], float]],
    repeats: int,
    unit: float,
) -> list[dict]:
    """A row for each lever, the strongest first."""
    rows = []
    for lever, slower in without.items():
        pairs = [(ours(), slower()) for _ in range(repeats + 1)][1:]  # the first of each warms up
        with_it, without_it = (median(side) * unit for side in zip(*pairs, strict=True))
        rows.append(
            {
                "lever": lever,
                "of": what,
                "with": with_it,
                "without": without_it,
                "factor": without_it / with_it,
            }
        )
    return sorted(rows, key=lambda row: -row["factor"])


def _compiled(unet, ours: Callable[[], float], repeats: int, unit: float) -> list[dict]:
    before = median(ours() for _ in range(repeats))
    unet.compile_repeated_blocks(fullgraph=True)
    first = ours()
    after = median(ours() for _ in range(repeats))
    return [
        {
            "lever": f"regional torch.compile (not used; compiling takes {first:.0f} s)",
            "of": "",
            "with": after * unit,
            "without": before * unit,
            "factor": before / after,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs"),
        help="where the LoRA of a notebook run may lie already",
    )
    arguments = parser.parse_args()
    rows = training(arguments.output, arguments.repeats, arguments.compile) + rendering(
        arguments.output, max(2, arguments.repeats // 3), arguments.compile
    )
    print(f"\n{side_by_side.machine()}\n\n{side_by_side.table(rows)}\n")
    print(json.dumps({row["lever"]: round(row["factor"], 2) for row in rows}, ensure_ascii=False))


if __name__ == "__main__":
    main()
