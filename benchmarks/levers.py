"""What does each lever bring?  python -m benchmarks.levers [--repeats 7] [--compile]

Ours on ``mini`` with its defaults, then the same with one lever at a time taken away: seconds of a training step for a
picture, and of eight panels. Medians; a lever's factor is the median without it over the median with it, measured in
turns so that a slow minute meets both. ``--compile`` adds diffusers' regional ``torch.compile``, its compilation
counted and shown apart. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import side_by_side
from storyboard.models.run import run_on

PANELS = 8


def training(output: Path, repeats: int, compiled: bool) -> list[dict]:
    import torch

    from benchmarks import diffsynth_peer
    from storyboard import Settings, clean, collect
    from storyboard.models import bases, memory
    from storyboard.training import cache, loop
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.stage import inject

    settings = Settings(base="mini", output=str(output))
    base = bases.get("mini")
    plan = memory.plan(base, settings)
    captions = clean(collect(settings), settings).captions
    cached = cache.prepare(captions, replace(run_on(base, settings), plan=plan))
    bucket, indices = loop.batches(cached, settings.train_batch_size, 0, 0)[0]

    def unet(**changes: object) -> TrainingPipeline:
        pipe = TrainingPipeline.load(replace(base, **changes), ("unet",), plan.device, plan.dtype)
        inject(pipe, settings)
        return pipe

    def step(
        pipe: TrainingPipeline, chosen=indices, layout: torch.memory_format = torch.channels_last
    ) -> float:
        began = time.perf_counter()
        drawn = loop.draw_batch(cached, bucket, chosen, pipe, 0, 0)
        drawn["latents"] = drawn["latents"].contiguous(memory_format=layout)
        loop.diffusion_loss(pipe, **drawn).backward()
        return (time.perf_counter() - began) / len(chosen)

    ours, plain, saving = unet(), unet(), unet()
    plain.unet.to(memory_format=torch.contiguous_format)
    for module in plain.unet.modules():
        module._forward_hooks.clear()
    whole = unet(lora_targets=(base.lora_targets[0].replace(r"(mid_block|up_blocks)\.", ""),))
    saving.unet.enable_gradient_checkpointing()
    branches, padded = unet(), unet()
    for module in branches.unet.modules():
        module.__dict__.pop("forward", None)  # back to peft's own
    for module in padded.unet.modules():
        module._forward_pre_hooks.clear()
    vae, words = (
        TrainingPipeline.load(base, ("vae",), plan.device, plan.dtype),
        diffsynth_peer.text_pipeline(base, plan.dtype, plan.device),
    )
    texts = [captions.rows[place].text for place in range(len(indices))]

    def uncached() -> float:
        began = time.perf_counter()
        vae.encode_images(torch.zeros(len(indices), 3, *bucket))
        with torch.no_grad():
            words.encode_prompt(
                prompt=texts,
                device=torch.device(plan.device),
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        return (time.perf_counter() - began) / len(indices) + step(ours)

    without: dict[str, Callable[[], float]] = {
        "cached latents and embeddings": uncached,
        f"batches of {len(indices)}": lambda: step(ours, indices[:1]),
        "LoRA in the drawing half of the UNet alone": lambda: step(whole),
        "channels last": lambda: step(plain, layout=torch.contiguous_format),
        "no gradient checkpointing": lambda: step(saving),
        "LoRA inside the weights, not beside them (fp32)": lambda: step(branches),
        "equal padding tokens as one key (fp32)": lambda: step(padded),
    }
    return _measured("training step, ms a picture", lambda: step(ours), without, repeats, 1000) + (
        _compiled(ours.unet, lambda: step(ours), repeats, 1000) if compiled else []
    )


def rendering(output: Path, repeats: int, compiled: bool) -> list[dict]:
    import torch

    from storyboard import Settings, Story
    from storyboard.models import bases, conditioning, memory
    from storyboard.rendering import sampling

    settings = Settings(base="mini", output=str(output))
    base = bases.get("mini")
    plan = memory.plan(base, settings)
    panels = Story(
        ["二次元，紫色短发女孩，微笑，白色衣服，教室"] * PANELS, "模糊，低质量"
    ).resolved(0)
    said = conditioning.encode(
        replace(run_on(base, settings), plan=plan),
        {text for panel in panels for text in (panel.prompt, panel.negative_prompt)},
    )
    lora = next(iter(sorted(output.glob("lora/lora.safetensors"))), None)
    load = lambda: sampling.load_pipeline(base, plan, lora)
    ours, plain, wide = load(), load(), load()
    plain.unet.to(memory_format=torch.contiguous_format)
    wide.vae.to(memory_format=torch.contiguous_format)

    def eight(
        pipe=ours,
        steps: int = settings.num_inference_steps,
        end: float = settings.guidance_end,
        size: int = settings.render_batch_size,
    ) -> float:
        began = time.perf_counter()
        for start in range(0, PANELS, size):
            some = panels[start : start + size]
            positive = [said[panel.prompt] for panel in some]
            negative = [said[panel.negative_prompt] for panel in some]
            list(
                sampling.draw(
                    pipe,
                    positive,
                    negative,
                    [panel.seed for panel in some],
                    settings.resolution,
                    steps,
                    settings.guidance_scale,
                    end,
                )
            )
        return time.perf_counter() - began

    without = {
        f"{settings.num_inference_steps} steps of DPM-Solver++ 2M instead of 50": lambda: eight(
            steps=50
        ),
        "guidance only in the first 60 % of the steps (not used: softer lines)": lambda: eight(
            end=0.6
        ),
        f"{settings.render_batch_size} panels at once": lambda: eight(size=1),
        "UNet channels last": lambda: eight(plain),
        "VAE channels last": lambda: eight(wide),
    }
    if lora:
        branches = sampling.load_pipeline(base, plan)
        sampling.attach(branches, base, lora)
        without["LoRA added to the weights"] = lambda: eight(branches)
    return _measured("eight panels, s", eight, without, repeats, 1) + (
        _compiled(ours.unet, eight, repeats, 1) if compiled else []
    )


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
        with_it, without_it = (median(side) * unit for side in zip(*pairs))
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
