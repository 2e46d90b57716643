"""How fast are eight panels?  python -m benchmarks.rendering [--base mini]

The 2024 way, DiffSynth-Studio's pipeline called once a panel with 50 steps; a plain loop over diffusers' pipeline, one
panel at a time with its default of 50 steps; ours with its defaults. Same weights, LoRA, prompts, negative prompts,
seeds and guidance scale. Loading and text encoding count, imports are shown apart: in a notebook they are done before.
What is drawn is scored by the classifier of ``prompt_following.py`` on 40 further prompts: the style of the LoRA, and
hair, clothes, background, expression as asked. Other bases than mini are drawn without LoRA and not scored. The last
line is JSON.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean

from benchmarks import side_by_side
from benchmarks.side_by_side import BEGAN

STEPS = 50
TITLES = {"ours": "storyboard", "diffusers": "diffusers, a loop", "diffsynth": "DiffSynth, 2024"}
FOLLOWED = ("hair_color", "background", "clothes_color", "expression", "hair_length")


def asked(scored: bool) -> list[dict]:
    """The eight panels' attributes, or those of the 40 that are scored."""
    from benchmarks import prompt_following

    rows = prompt_following.prompts()
    return [row | {"style": "lorelei"} for row in (rows[1::3] if scored else rows[::15])]


def run(name: str, arguments: argparse.Namespace) -> dict:
    """One contender, in this process."""
    from benchmarks import prompt_following
    from storyboard import Panel, Settings, Story
    from storyboard.models import bases, memory
    from tools.captions import caption

    folder = side_by_side.fresh(arguments.output / "benchmark-rendering" / name)
    settings = Settings(base=arguments.base, output=str(folder), resolution=arguments.resolution)
    base = bases.get(settings.base)
    plan = memory.plan(base, settings)
    draw = {"ours": ours, "diffusers": diffusers, "diffsynth": diffsynth}[name]
    story = lambda rows: Story(
        [Panel(caption(row, "zh"), seed=1000 + place) for place, row in enumerate(rows)],
        prompt_following.NEGATIVE["zh"],
    )
    _import(base)
    imported = time.perf_counter()
    paths = draw(base, plan, settings, story(asked(False)), arguments.lora)
    drawn = time.perf_counter()
    result = {"imports_s": imported - BEGAN, "seconds": drawn - imported, "scores": None}
    assert len(paths) == 8
    if arguments.base == "mini" and not arguments.unscored:
        import numpy as np

        from storyboard.scoring import classifier

        rows = asked(True)
        paths = draw(
            base, plan, settings.but(output=str(folder / "scored")), story(rows), arguments.lora
        )
        read = classifier.read(
            classifier.load(), np.stack([classifier.pixels(path) for path in paths])
        )
        result["scores"] = classifier.accuracy(read, rows)
    return result


def _import(base) -> None:
    """What the contenders import, diffusers' lazy modules among it: a notebook has done so before, when it trained."""
    import diffsynth_peer  # noqa: F401
    import diffusers

    from storyboard.models import loading as models
    from storyboard.rendering import sampling  # noqa: F401

    getattr(diffusers, base.pipeline)
    for component in base.components:
        models.class_of(base, component)


def ours(base, plan, settings, story, lora: Path | None) -> list[Path]:
    from storyboard import render

    return render(story, settings, lora).paths


def diffusers(base, plan, settings, story, lora: Path | None) -> list[Path]:
    """Everything in one pipeline, called once a panel; the base's own scheduler."""
    import torch
    from diffusers import EulerDiscreteScheduler

    from benchmarks import diffsynth_peer
    from storyboard.models import loading as models

    words = diffsynth_peer.text_pipeline(base, plan.dtype, plan.device)
    parts = {
        name: part
        for name, part in words.components.items()
        if name.startswith(("text_encoder", "tokenizer"))
    }
    unet, vae = (
        models.load(base, part, dtype).to(memory_format=torch.contiguous_format)
        for part, dtype in (("unet", plan.dtype), ("vae", torch.float32))
    )
    pipe = models.pipeline(
        base,
        **parts,
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler.from_pretrained(base.folder / "scheduler"),
    ).to(plan.device)
    if lora:
        pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    paths = []
    for place, panel in enumerate(story.resolved(settings.seed), 1):
        picture = pipe(
            panel.prompt,
            negative_prompt=panel.negative_prompt,
            num_inference_steps=STEPS,
            guidance_scale=settings.guidance_scale,
            height=settings.resolution,
            width=settings.resolution,
            generator=torch.Generator("cpu").manual_seed(panel.seed),
        ).images[0]
        paths.append(_saved(picture, settings, place))
    return paths


def diffsynth(base, plan, settings, story, lora: Path | None) -> list[Path]:
    import torch

    from benchmarks import diffsynth_peer

    pipe = diffsynth_peer.pipeline(base, plan.dtype, plan.device)
    if lora:  # fused, as its load_lora does: no branches to compute
        fusing = diffsynth_peer.text_pipeline(base, plan.dtype, plan.device)
        fusing.register_modules(unet=pipe.unet)
        fusing.load_lora_weights(str(lora.parent), weight_name=lora.name)
        fusing.fuse_lora()
        fusing.unload_lora_weights()
    paths = []
    for place, panel in enumerate(story.resolved(settings.seed), 1):
        picture = pipe(
            panel.prompt,
            panel.negative_prompt,
            cfg_scale=settings.guidance_scale,
            height=settings.resolution,
            width=settings.resolution,
            seed=panel.seed,
            num_inference_steps=STEPS,
            progress_bar_cmd=lambda timesteps: timesteps,
        )
        paths.append(_saved(picture, settings, place))
    if plan.device == "cuda":
        torch.cuda.synchronize()
    return paths


def _saved(picture, settings, place: int) -> Path:
    path = Path(settings.output) / f"panel-{place}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def limit(base, settings) -> float:
    """Floating point operations of eight panels in ours, counted by PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from storyboard.models import memory
    from storyboard.models.conditioning import Embedding
    from storyboard.rendering import sampling

    plan = memory.plan(base, settings)
    pipe = sampling.load_pipeline(base, plan)
    width = pipe.unet.config.encoder_hid_dim or pipe.unet.config.cross_attention_dim
    pooled = (
        pipe.unet.config.projection_class_embeddings_input_dim
        - 6 * pipe.unet.config.addition_time_embed_dim
        if pipe.unet.config.addition_embed_type
        else 0
    )
    said = [Embedding(torch.zeros(base.text_length, width), torch.zeros(pooled))]
    with FlopCounterMode(display=False) as counter:
        sampling.decode(
            pipe,
            sampling.denoise(
                pipe, said, said, [0], settings.resolution, 2, settings.guidance_scale
            ),
        )
    with FlopCounterMode(display=False) as decoding:
        sampling.decode(
            pipe,
            torch.zeros(
                1, 4, settings.resolution // 8, settings.resolution // 8, device=plan.device
            ),
        )
    decoded = decoding.get_total_flops()
    return 8 * ((counter.get_total_flops() - decoded) / 2 * settings.num_inference_steps + decoded)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini")
    parser.add_argument(
        "--lora", type=Path, help="a LoRA file instead of the one that the defaults train"
    )
    parser.add_argument("--resolution", type=int, help="the base's own if it is not given")
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
    if arguments.contender:
        print(json.dumps(run(arguments.contender, arguments)))
        return

    from storyboard import Settings, clean, collect, train
    from storyboard.models import bases

    if arguments.base == "mini" and not arguments.lora:
        settings = Settings(base="mini", output=str(arguments.output))
        arguments.lora = train(clean(collect(settings), settings).captions, settings).path
    passed = [
        f"--{name}={value}"
        for name, value in vars(arguments).items()
        if value is not None and name not in ("contender", "unscored")
    ]
    passed += ["--unscored"] * arguments.unscored
    found = {name: side_by_side.contender("benchmarks.rendering", name, *passed) for name in TITLES}
    rows = []
    for name, one in found.items():
        if scores := one["scores"]:
            one["followed"] = mean(scores[attribute] for attribute in FOLLOWED)
        rows.append(
            {
                "": TITLES[name],
                "imports s": one["imports_s"],
                "eight panels s": one["seconds"],
                "times ours": one["seconds"] / found["ours"]["seconds"],
                "prompts followed %": one.get("followed"),
                "style %": scores["style"] if scores else None,
            }
        )
    settings = Settings(base=arguments.base, resolution=arguments.resolution)
    work, rate = limit(bases.get(arguments.base), settings), side_by_side.matrix_rate()
    print(f"\n{side_by_side.machine()}\n\n{side_by_side.table(rows)}\n")
    print(
        f"limit: {work / 1e9:,.0f} GFLOP in ours, matrices at {rate / 1e9:,.0f} GFLOP/s (fp32): {work / rate:.1f} s\n"
    )
    ours, diffsynth = found["ours"], found["diffsynth"]
    result = {
        "ratio_diffsynth": round(diffsynth["seconds"] / ours["seconds"], 2),
        "ratio_diffusers": round(found["diffusers"]["seconds"] / ours["seconds"], 2),
    }
    for name, one in (("ours", ours), ("diffsynth", diffsynth)):
        result |= (
            {f"score_{name}": round(one["followed"], 1), f"style_{name}": one["scores"]["style"]}
            if one["scores"]
            else {f"score_{name}": None}
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
