"""Stage 3, train: a LoRA on a frozen base.

DiffSynth-Studio loads the base and injects the LoRA (``pipeline``, ``injection``); ``loop`` trains
it by the loss in ``loss``; ``hyperparameters`` lists everything that decides on the result.
"""

import csv
from dataclasses import asdict
from pathlib import Path

from storyboard import artifacts, disks, show, stages
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError, SettingsError
from storyboard.keeping.along import Along
from storyboard.keeping.contents import CHECKPOINT
from storyboard.lora import file as lora_file
from storyboard.lora.file import Lora
from storyboard.models.run import Run, resolve
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.training import defaults
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.metadata import metadata
from storyboard.training.milestones import STATE, Milestones, forget
from storyboard.training.saving import Saving, TimeBudget

# all that turn captions into a LoRA: text embeddings, latents, UNet, LoRA
PACKAGES = ("torch", "diffsynth", "diffusers", "transformers", "compel", "peft", "accelerate")
BYTES = 4 * 10**8  # of LoRA, state and checkpoints
BYTES_PER_PICTURE = 3 * 10**6  # of cached latents and embeddings


def train(captions: Captions, settings: Settings, story: Story | None = None) -> Lora:
    """Train a LoRA on ``captions`` into ``<output>/lora``.

    An interrupted call resumes from the last checkpoint, which is written every quarter and every
    five minutes, and kept in ``settings.keep_in``; one that is damaged is left aside, with a line
    printed. A place that does not take it is told, and training goes on.
    The LoRA as it stood after one and two thirds is kept in ``checkpoints/``, for ``best`` to
    choose from. What the settings leave None follows the set (``defaults``), with a line printed.

    Args:
        story: Its first panels are drawn along the way, without references and character
            consistency. It does not enter the fingerprint: an edited prompt
            does not train again.

    Raises:
        SettingsError: More pictures in a step than there are.
        ResourceError: The disk is too small, or cannot be written.
        TrainingError: The loss is not finite.
        TimeBudgetError: ``settings.time_budget`` is over, counted from the start of this call, in
            which another run may be waited for; the state is saved, and what was trained before is
            untouched.
        KeepingError: ``settings.keep_in`` cannot be used, or holds copies of another run.
    """
    return _trained(captions, settings, story, TimeBudget.of(settings.time_budget))


@stages.stage("train", "lora", "cache/latents", "cache/prior", "cache/prior-latents")
def _trained(
    captions: Captions, settings: Settings, story: Story | None, budget: TimeBudget | None
) -> Lora:
    """``train``, alone in the folder."""
    along = Along(settings, "train")
    along.check()
    run = resolve(settings)
    target = run.folder / "lora"
    _check_batch_size(captions, run)
    choice = defaults.choose(run, captions, lambda chosen: _distance(chosen, captions))
    print(f"train: {choice.reason}", flush=True)
    run = choice.run
    hyperparameters = Hyperparameters.of(run)

    fingerprint = _fingerprint(captions, run, hyperparameters)
    if manifest := artifacts.finished(target, fingerprint):
        lora = _load(target, manifest)
        forget(run.folder / CHECKPOINT)
        print(f"train: nothing to do, {lora}")
        along.keep(last=True)
        return lora

    _check_disk(captions, target)
    _print_concerns(captions, run)
    saving = Saving(run.folder / CHECKPOINT / fingerprint[:16] / STATE, along, budget)
    with artifacts.building(target) as folder:
        previews = _train(captions, run, hyperparameters, story, folder, saving)
        manifest = artifacts.write_manifest(
            folder,
            "train",
            fingerprint,
            base=run.base.name,
            digest=artifacts.digest_of_file(folder / "lora.safetensors"),
            hyperparameters=asdict(hyperparameters),
            reason=choice.reason,
            previews=previews,
        )
    forget(run.folder / CHECKPOINT)
    lora = _load(target, manifest)
    print(f"train: {lora}")
    along.keep(last=True)
    return lora


def _check_batch_size(captions: Captions, run: Run) -> None:
    pictures, asked = len(captions), run.settings.train_batch_size
    if asked and asked > pictures:
        raise SettingsError(
            f"train_batch_size={asked} is more than the {pictures} pictures "
            f"there are: set it to {pictures} or less."
        )


def _print_concerns(captions: Captions, run: Run) -> None:
    """Say where a set of the user's own is too small or too far."""
    if run.settings.dataset == "sample":
        return
    from storyboard.training import suitability

    paths = [captions.path(row) for row in captions.rows]
    for sentence in suitability.concerns(run.base, len(captions), paths):
        print(f"train: {sentence}", flush=True)


def _distance(run: Run, captions: Captions) -> float:
    """How far ``captions`` are from what the base draws."""
    from storyboard.training import distance, prior

    count = Hyperparameters.of(run).prior_pictures
    return distance.kept(run, captions, prior.draw(run, captions, count))


def _fingerprint(captions: Captions, run: Run, hyperparameters: Hyperparameters) -> str:
    return artifacts.fingerprint(
        stage="train",
        captions=captions.digest,
        base=run.base_fingerprint,
        hyperparameters=asdict(hyperparameters),
        versions=artifacts.versions(*PACKAGES),
    )


def _check_disk(captions: Captions, target: Path) -> None:
    needed = BYTES + BYTES_PER_PICTURE * len(captions)
    if missing := artifacts.free_space_needed(target, needed):
        raise ResourceError(
            f"The disk of {target} lacks {missing / 1e6:,.0f} MB for cached embeddings and the "
            "LoRA: free some space or set output to another disk."
        )


def _load(folder: Path, manifest: dict) -> Lora:
    with (folder / "loss.csv").open(encoding="utf-8", newline="") as lines:
        losses = [float(row["loss"]) for row in csv.DictReader(lines)]
    return Lora(
        folder / "lora.safetensors",
        manifest["base"],
        manifest["digest"],
        losses,
        manifest["previews"],
    )


def _train(
    captions: Captions,
    run: Run,
    hyperparameters: Hyperparameters,
    story: Story | None,
    folder: Path,
    saving: Saving,
) -> list[dict]:
    """Write everything but the manifest into ``folder``; returns the previews."""
    from storyboard.training import cache, loop, prior
    from storyboard.training.injection import inject
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.previews import Previews
    from storyboard.training.progress import Progress

    # 1. What the UNet is trained on
    print(f"train: caching latents and text embeddings of {len(captions)} pictures", flush=True)
    previews = Previews(run, story) if story else None
    kept = Milestones(saving.path.parent, previews.fingerprint if previews else "")
    cached = cache.prepare(captions, run, _prompts(story, run))
    own = None
    if hyperparameters.prior_loss_weight:
        drawn = prior.draw(run, captions, hyperparameters.prior_pictures)
        own = cache.prepare(drawn, run, name=cache.PRIOR)

    # 2. The UNet with a LoRA
    pipe = TrainingPipeline.load(run.base, ("unet",), run.plan.device, run.plan.dtype)
    if run.plan.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()

    # 3. The steps
    with inject(pipe, hyperparameters), show.Live("train", run.train_steps) as live:
        progress = Progress(captions, run, pipe.unet, live, previews, kept)
        weights = loop.optimise(
            pipe,
            cached,
            hyperparameters,
            folder,
            saving,
            run.plan.train_micro_batch_size,
            progress.report,
            run.plan.cuda_graphs,
            own,
        )

    # 4. The files
    facts = metadata(captions, run, run.train_steps)
    prefix = run.base.family.kohya_prefixes["unet"]
    with disks.writing(folder):
        lora_file.save(folder / "lora.safetensors", weights, run.alpha, facts, prefix)
    kept.copy_to(folder)
    return [{"step": step, "pictures": names} for step, names in sorted(kept.previews.items())]


def _prompts(story: Story | None, run: Run) -> list[str]:
    """What is encoded for previews, while the text encoders are loaded for the captions."""
    if story is None:
        return []
    panels = story.resolved(run.seed)
    return [text for panel in panels for text in (panel.prompt, panel.negative_prompt)]
