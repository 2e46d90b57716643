"""Stage 3, train: a LoRA on a frozen base. DiffSynth-Studio loads and injects, the loop in ``loop.py`` trains."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path

from .. import artifacts, bases, memory, weights
from ..dataset import Captions
from ..errors import RenderingError, ResourceError, SettingsError
from ..lora import Lora
from ..quiet import quiet
from ..settings import Settings
from ..story import Story

PACKAGES = ("torch", "diffsynth", "diffusers", "peft", "accelerate")
PREVIEWS = 4  # panels drawn along the way
PREVIEW_STEPS = 12


def train(captions: Captions, settings: Settings, story: Story | None = None) -> Lora:
    """Train a LoRA on ``captions`` into ``<output>/lora``; panels of ``story`` are drawn along the way,
    without their references and ``heroine``.

    Broken off, it goes on from the last quarter when it is called again. The story does not enter the
    fingerprint: an edited prompt trains nothing anew. The LoRA as it stood after one and two thirds is kept in
    ``checkpoints/``, for ``best`` to choose from.

    Raises:
        SettingsError: More pictures in a step than there are.
        ResourceError: The disk is too small.
        TrainingError: The loss is not finite.
    """
    base = weights.fetch(bases.get(settings.base))
    target = settings.folder / "lora"
    if settings.train_batch_size > len(captions):
        raise SettingsError(
            f"train_batch_size={settings.train_batch_size} is more than the {len(captions)} pictures there are: set it to {len(captions)} or less."
        )
    plan = memory.plan(base, settings)
    used = {
        name: getattr(settings, name)
        for name in (
            "seed",
            "resolution",
            "rank",
            "alpha",
            "learning_rate",
            "train_steps",
            "train_batch_size",
        )
    }
    mark = artifacts.fingerprint(
        stage="train",
        captions=captions.digest,
        base=base.fingerprint(),
        targets=base.lora_targets,
        high_noise_weight=base.high_noise_weight,
        clip_skip=settings.clip_skip,
        settings=used,
        precision=plan.precision,
        versions=artifacts.versions(*PACKAGES),
    )
    if manifest := artifacts.finished(target, mark):
        lora = _load(target, manifest)
        print(f"train: nothing to do, {lora}")
        return lora
    if missing := artifacts.free_space_needed(target, 4 * 10**8 + 3 * 10**6 * len(captions)):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for cached embeddings and the LoRA: free some space or set output to another disk."
        )
    checkpoints = settings.folder / ".checkpoint" / mark[:16]
    with artifacts.building(target) as folder:
        previews = _train(
            base, plan, captions, settings, story, folder, checkpoints / "state.safetensors"
        )
        digest = artifacts.digest_of_file(folder / "lora.safetensors")
        manifest = artifacts.write_manifest(
            folder, "train", mark, base=base.name, digest=digest, settings=used, previews=previews
        )
    shutil.rmtree(settings.folder / ".checkpoint", ignore_errors=True)
    lora = _load(target, manifest)
    print(f"train: {lora}")
    return lora


def _load(folder: Path, manifest: dict) -> Lora:
    with open(folder / "loss.csv", encoding="utf-8", newline="") as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines)]
    return Lora(
        folder / "lora.safetensors",
        manifest["base"],
        manifest["digest"],
        losses,
        manifest["previews"],
    )


def _train(
    base: bases.Base,
    plan: memory.Plan,
    captions: Captions,
    settings: Settings,
    story: Story | None,
    folder: Path,
    checkpoint: Path,
) -> list[dict]:
    from .. import lora, show
    from . import cache, loop
    from .pipeline import TrainingPipeline

    def keep(
        number: int,
    ) -> None:  # beside the state for resume, so that a run that goes on has them all
        state = {
            name: parameter
            for name, parameter in pipe.unet.named_parameters()
            if parameter.requires_grad
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        content = lora.serialised(
            lora.to_kohya(state, settings.alpha), _metadata(captions, settings, base, number)
        )
        artifacts.write_atomically(checkpoint.with_name(f"step-{number:06d}.safetensors"), content)

    print(f"train: caching latents and text embeddings of {len(captions)} pictures", flush=True)
    painter = _Painter(base, plan, settings, story, folder) if story else None
    cached = cache.prepare(
        captions,
        settings,
        base,
        plan,
        [
            panel[key]
            for panel in story.resolved(settings.seed)
            for key in ("prompt", "negative_prompt")
        ]
        if story
        else [],
    )
    pipe = TrainingPipeline.load(base, ("unet",), plan.device, plan.dtype)
    inject(pipe, settings)
    if plan.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    with show.Live("train", settings.train_steps) as live:
        shown = {round(settings.train_steps * third / 3) for third in range(4)}
        previews: list[dict] = []

        def watch(step: loop.Step) -> None:
            if painter and step.number in shown:
                previews.append(painter.paint(pipe.unet, step.number))
                live.picture(
                    f"step {step.number}", [folder / name for name in previews[-1]["pictures"]]
                )
            if step.number in shown and 0 < step.number < step.total:
                keep(step.number)
            if step.number and math.isfinite(step.loss):
                live.step(step.number, step.loss, step.seconds_left)

        state = loop.run(
            pipe, cached, settings, folder, checkpoint, plan.train_at_once, watch, plan.cuda_graphs
        )
    lora.save(
        folder / "lora.safetensors",
        state,
        settings.alpha,
        _metadata(captions, settings, base, settings.train_steps),
    )
    (folder / "checkpoints").mkdir()
    for path in sorted(checkpoint.parent.glob("step-*.safetensors")):
        shutil.copyfile(path, folder / "checkpoints" / path.name)
    return previews


def inject(pipe, settings: Settings) -> None:
    """Let DiffSynth put a LoRA of fp32 weights into ``pipe.unet``, initialised from the seed, and spare it what work can be spared."""
    import torch
    from diffsynth.diffusion.training_module import DiffusionTrainingModule

    from . import unet

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        pipe.unet = DiffusionTrainingModule().add_lora_to_model(
            pipe.unet,
            target_modules=list(pipe.base.lora_targets),
            lora_rank=settings.rank,
            lora_alpha=settings.alpha,
            upcast_dtype=torch.float32,
        )
    with quiet():
        unet.keep_channels_last(pipe.unet)
    if (
        pipe.torch_dtype == torch.float32
    ):  # 16 bits would lose small values of the LoRA, and the weight of the padding
        unet.add_to_weights(pipe.unet)
        unet.fold_padding(pipe.unet)
    else:
        unet.add_as_branches(pipe.unet)


class _Painter:
    """Draws the first panels of the story with the UNet as it stands in training."""

    def __init__(
        self, base: bases.Base, plan: memory.Plan, settings: Settings, story: Story, folder: Path
    ) -> None:
        self.base, self.plan, self.settings, self.folder = base, plan, settings, folder
        self.panels = story.resolved(settings.seed)[:PREVIEWS]
        self.pipe = None
        (folder / "previews").mkdir()

    def paint(self, unet, step: int) -> dict:
        import torch

        from .. import conditioning
        from ..rendering import drawing

        self.pipe = self.pipe or drawing.load_pipeline(self.base, self.plan, unet=unet)
        settings, size = self.settings, self.plan.render_at_once
        words = [panel[key] for panel in self.panels for key in ("prompt", "negative_prompt")]
        said = conditioning.encode(
            self.base, words, settings, self.plan
        )  # encoded before, with the captions
        pictures = []
        try:
            for start in range(0, len(self.panels), size):
                panels = self.panels[start : start + size]
                positive, negative = (
                    [said[panel[key]] for panel in panels] for key in ("prompt", "negative_prompt")
                )
                seeds = [panel["seed"] for panel in panels]
                pictures += drawing.draw(
                    self.pipe,
                    positive,
                    negative,
                    seeds,
                    settings.resolution,
                    PREVIEW_STEPS,
                    settings.guidance_scale,
                    settings.guidance_end,
                )
        except (
            RenderingError,
            torch.OutOfMemoryError,
        ) as error:  # a look at a LoRA half trained; the story itself is drawn with a check
            print(f"train: no preview at step {step}: {error}", flush=True)
            pictures = []
        names = [
            f"previews/step-{step:06d}-panel-{place}.png" for place in range(1, len(pictures) + 1)
        ]
        for picture, name in zip(pictures, names):
            picture.save(self.folder / name)
        return {"step": step, "pictures": names}


def _metadata(
    captions: Captions, settings: Settings, base: bases.Base, steps: int
) -> dict[str, object]:
    """What kohya's tools and modelspec readers (https://github.com/Stability-AI/ModelSpec) look for; no date, so that files repeat."""
    objective = {}
    if base.prediction_type == "v_prediction":
        objective = {
            "ss_v2": False,
            "ss_v_parameterization": True,
            "ss_zero_terminal_snr": base.zero_terminal_snr,
            "modelspec.prediction_type": "v",
        }
    text = (
        {"ss_clip_skip": settings.clip_skip, "modelspec.encoder_layer": settings.clip_skip}
        if settings.clip_skip
        else {}
    )
    tags = Counter(
        tag.strip()
        for row in captions.rows
        for tag in row["text"].replace("，", ",").split(",")
        if tag.strip()
    )
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": settings.rank,
        "ss_network_alpha": settings.alpha,
        "ss_base_model_version": base.kohya_name,
        "ss_output_name": "lora",
        "ss_resolution": f"({settings.resolution}, {settings.resolution})",
        "ss_steps": steps,
        "ss_learning_rate": settings.learning_rate,
        "ss_seed": settings.seed,
        "ss_batch_size_per_device": settings.train_batch_size,
        "ss_num_train_images": len(captions),
        "ss_tag_frequency": json.dumps(
            {"storyboard": dict(tags.most_common())}, ensure_ascii=False
        ),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{base.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Storyboard LoRA",
        "modelspec.resolution": f"{settings.resolution}x{settings.resolution}",
        **objective,
        **text,
    }
