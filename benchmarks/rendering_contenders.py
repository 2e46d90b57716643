"""The three ways of drawing a story that ``benchmarks.rendering`` compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from storyboard.models.run import Run
from storyboard.settings import Settings


@dataclass(frozen=True)
class Prompt:
    """What one panel is drawn from."""

    text: str
    negative: str
    seed: int


@dataclass(frozen=True)
class Task:
    """What all contenders draw.

    Attributes:
        run: Resolved from ``settings``.
        lora: A file, or None for the base alone.
        steps: Of the peers; ours takes its own.
    """

    settings: Settings
    run: Run
    prompts: Sequence[Prompt]
    lora: Path | None
    steps: int


def ours(task: Task) -> list[Path]:
    """``storyboard.render``."""
    from storyboard import Panel, Story, render

    panels = [Panel(prompt.text, prompt.negative, prompt.seed) for prompt in task.prompts]
    return render(Story(panels), task.settings, task.lora).paths


def diffusers(task: Task) -> list[Path]:
    """Everything in one pipeline, called once a panel; the base's own scheduler."""
    from diffusers import EulerDiscreteScheduler

    from benchmarks import diffsynth_peer
    from storyboard.models import loading

    run, base, plan = task.run, task.run.base, task.run.plan
    text_pipeline = diffsynth_peer.text_pipeline(base, plan.dtype, plan.device)
    text_parts = {
        name: part
        for name, part in text_pipeline.components.items()
        if name.startswith(("text_encoder", "tokenizer"))
    }
    unet = loading.load(base, "unet", plan.dtype).to(memory_format=torch.contiguous_format)
    # from_pretrained gives every part one type; the pipeline itself upcasts where fp16 overflows
    vae = loading.load(base, "vae", plan.dtype).to(memory_format=torch.contiguous_format)
    pipe = loading.pipeline(
        base,
        **text_parts,
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler.from_pretrained(base.folder / "scheduler"),
    ).to(plan.device)
    if task.lora:
        pipe.load_lora_weights(str(task.lora.parent), weight_name=task.lora.name)

    paths = []
    for number, prompt in enumerate(task.prompts, 1):
        picture = pipe(
            prompt.text,
            negative_prompt=prompt.negative,
            num_inference_steps=task.steps,
            guidance_scale=run.guidance_scale,
            height=run.resolution,
            width=run.resolution,
            generator=torch.Generator("cpu").manual_seed(prompt.seed),
        ).images[0]
        paths.append(_saved(picture, run.folder, number))
    return paths


def diffsynth(task: Task) -> list[Path]:
    """DiffSynth-Studio's pipeline, called once a panel."""
    from benchmarks import diffsynth_peer

    run, plan = task.run, task.run.plan
    pipe = diffsynth_peer.pipeline(run.base, plan.dtype, plan.device)
    if task.lora:  # fused, as its load_lora does: no branches to compute
        fusing = diffsynth_peer.text_pipeline(run.base, plan.dtype, plan.device)
        fusing.register_modules(unet=pipe.unet)
        fusing.load_lora_weights(str(task.lora.parent), weight_name=task.lora.name)
        fusing.fuse_lora()
        fusing.unload_lora_weights()

    paths = []
    for number, prompt in enumerate(task.prompts, 1):
        picture = pipe(
            prompt.text,
            prompt.negative,
            cfg_scale=run.guidance_scale,
            height=run.resolution,
            width=run.resolution,
            seed=prompt.seed,
            num_inference_steps=task.steps,
            progress_bar_cmd=_without_bar,
        )
        paths.append(_saved(picture, run.folder, number))
    if plan.device == "cuda":
        torch.cuda.synchronize()
    return paths


def _without_bar(timesteps):
    return timesteps


def _saved(picture, folder: Path, number: int) -> Path:
    path = folder / f"panel-{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def import_all(run: Run) -> None:
    """What the contenders import, diffusers' lazy modules among it.

    In a notebook that has happened before, when it trained.
    """
    import diffusers

    from benchmarks import diffsynth_peer  # noqa: F401
    from storyboard.models import loading
    from storyboard.rendering import sampling  # noqa: F401

    getattr(diffusers, run.base.pipeline)
    for component in run.base.components:
        loading.class_of(run.base, component)


CONTENDERS = {"ours": ours, "diffusers": diffusers, "diffsynth": diffsynth}
