"""Stage 3, train: a LoRA on a frozen base. DiffSynth-Studio loads and injects, the loop in ``loop.py`` trains."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path

from storyboard import artifacts
from storyboard.compat.quiet import quiet
from storyboard.data.captions import Captions
from storyboard.errors import RenderingError, ResourceError, SettingsError
from storyboard.lora.file import Lora
from storyboard.models.run import Run, resolve
from storyboard.settings import Settings
from storyboard.story import Story

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
    run = resolve(settings)
    target = run.folder / "lora"
    if run.train_batch_size > len(captions):
        raise SettingsError(
            f"train_batch_size={run.train_batch_size} is more than the {len(captions)} pictures there are: set it to {len(captions)} or less."
        )
    used = {
        name: getattr(run, name)
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
        base=run.base_fingerprint,
        targets=run.base.lora_targets,
        high_noise_weight=run.base.high_noise_weight,
        clip_skip=run.clip_skip,
        settings=used,
        precision=run.plan.precision,
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
    checkpoints = run.folder / ".checkpoint" / mark[:16]
    with artifacts.building(target) as folder:
        previews = _train(run, captions, story, folder, checkpoints / "state.safetensors")
        digest = artifacts.digest_of_file(folder / "lora.safetensors")
        manifest = artifacts.write_manifest(
            folder,
            "train",
            mark,
            base=run.base.name,
            digest=digest,
            settings=used,
            previews=previews,
        )
    shutil.rmtree(run.folder / ".checkpoint", ignore_errors=True)
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
    run: Run,
    captions: Captions,
    story: Story | None,
    folder: Path,
    checkpoint: Path,
) -> list[dict]:
    from storyboard import show
    from storyboard.lora import file as lora
    from storyboard.training import cache, loop
    from storyboard.training.pipeline import TrainingPipeline

    def keep(
        number: int,
    ) -> None:  # beside the state for resume, so that a run that goes on has them all
        state = {
            name: parameter
            for name, parameter in pipe.unet.named_parameters()
            if parameter.requires_grad
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        content = lora.serialised(lora.to_kohya(state, run.alpha), _metadata(captions, run, number))
        artifacts.write_atomically(checkpoint.with_name(f"step-{number:06d}.safetensors"), content)

    print(f"train: caching latents and text embeddings of {len(captions)} pictures", flush=True)
    painter = _Painter(run, story, folder) if story else None
    cached = cache.prepare(
        captions,
        run,
        [
            text
            for panel in story.resolved(run.seed)
            for text in (panel.prompt, panel.negative_prompt)
        ]
        if story
        else [],
    )
    pipe = TrainingPipeline.load(run.base, ("unet",), run.plan.device, run.plan.dtype)
    inject(pipe, run)
    if run.plan.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    with show.Live("train", run.train_steps) as live:
        shown = {round(run.train_steps * third / 3) for third in range(4)}
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

        state = loop.optimise(
            pipe,
            cached,
            run,
            folder,
            checkpoint,
            run.plan.train_micro_batch_size,
            watch,
            run.plan.cuda_graphs,
        )
    lora.save(
        folder / "lora.safetensors",
        state,
        run.alpha,
        _metadata(captions, run, run.train_steps),
    )
    (folder / "checkpoints").mkdir()
    for path in sorted(checkpoint.parent.glob("step-*.safetensors")):
        shutil.copyfile(path, folder / "checkpoints" / path.name)
    return previews


def inject(pipe, run: Run) -> None:
    """Let DiffSynth put a LoRA of fp32 weights into ``pipe.unet``, initialised from the seed, and spare it what work can be spared."""
    import torch
    from diffsynth.diffusion.training_module import DiffusionTrainingModule

    from storyboard.training import speedups as unet

    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        pipe.unet = DiffusionTrainingModule().add_lora_to_model(
            pipe.unet,
            target_modules=list(pipe.base.lora_targets),
            lora_rank=run.rank,
            lora_alpha=run.alpha,
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

    def __init__(self, run: Run, story: Story, folder: Path) -> None:
        from storyboard.rendering.panels import panel_records

        self.run, self.folder = run, folder
        self.records = [
            record.model_copy(update={"steps": PREVIEW_STEPS})
            for record in panel_records(run, story)[:PREVIEWS]
        ]
        self.renderer = None
        (folder / "previews").mkdir()

    def paint(self, unet, step: int) -> dict:
        from storyboard.rendering.renderer import Renderer

        self.renderer = self.renderer or Renderer(self.run, unet=unet)
        try:
            drawings = sorted(self.renderer.draw(self.records), key=lambda each: each.index)
        except (RenderingError, ResourceError) as error:
            # a look at a LoRA half trained; the story itself is drawn with a check
            print(f"train: no preview at step {step}: {error}", flush=True)
            drawings = []
        names = []
        for drawing in drawings:
            names.append(f"previews/step-{step:06d}-panel-{drawing.index + 1}.png")
            drawing.image.save(self.folder / names[-1])
        return {"step": step, "pictures": names}


def _metadata(captions: Captions, run: Run, steps: int) -> dict[str, object]:
    """What kohya's tools and modelspec readers (https://github.com/Stability-AI/ModelSpec) look for; no date, so that files repeat."""
    objective = {}
    if run.base.prediction_type == "v_prediction":
        objective = {
            "ss_v2": False,
            "ss_v_parameterization": True,
            "ss_zero_terminal_snr": run.base.zero_terminal_snr,
            "modelspec.prediction_type": "v",
        }
    text = (
        {"ss_clip_skip": run.clip_skip, "modelspec.encoder_layer": run.clip_skip}
        if run.clip_skip
        else {}
    )
    tags = Counter(
        tag.strip()
        for row in captions.rows
        for tag in row.text.replace("，", ",").split(",")
        if tag.strip()
    )
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": run.rank,
        "ss_network_alpha": run.alpha,
        "ss_base_model_version": run.base.kohya_name,
        "ss_output_name": "lora",
        "ss_resolution": f"({run.resolution}, {run.resolution})",
        "ss_steps": steps,
        "ss_learning_rate": run.learning_rate,
        "ss_seed": run.seed,
        "ss_batch_size_per_device": run.train_batch_size,
        "ss_num_train_images": len(captions),
        "ss_tag_frequency": json.dumps(
            {"storyboard": dict(tags.most_common())}, ensure_ascii=False
        ),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{run.base.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Storyboard LoRA",
        "modelspec.resolution": f"{run.resolution}x{run.resolution}",
        **objective,
        **text,
    }
