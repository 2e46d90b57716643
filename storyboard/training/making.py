"""How a LoRA comes to be, from captions to its files, in one process or in each of several workers.

DiffSynth-Studio loads the base and injects the LoRA (``pipeline``, ``injection``); ``loop`` trains
it by the loss in ``loss``; ``hyperparameters`` lists everything that decides on the result.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from storyboard import artifacts, disks
from storyboard.data.captions import Captions
from storyboard.errors import ResourceError, SettingsError
from storyboard.keeping.contents import CHECKPOINT
from storyboard.lora import file as lora_file
from storyboard.lora.file import Lora
from storyboard.models.run import Run, resolve
from storyboard.settings import Settings
from storyboard.story import Story
from storyboard.training import defaults
from storyboard.training.defaults import Choice
from storyboard.training.hyperparameters import Hyperparameters
from storyboard.training.metadata import metadata
from storyboard.training.milestones import STATE, Milestones, forget
from storyboard.training.saving import Saving
from storyboard.training.workers import Surroundings

if TYPE_CHECKING:
    from storyboard.training.cache import Cache
    from storyboard.training.checkpoint import TrainingState
    from storyboard.training.loop import Step
    from storyboard.training.previews import Previews

# all that turn captions into a LoRA: text embeddings, latents, UNet, LoRA
PACKAGES = ("torch", "diffsynth", "diffusers", "transformers", "compel", "peft", "accelerate")
BYTES = 4 * 10**8  # of LoRA, state and checkpoints
LATENT_BYTES = 4 * 4 / 8**2  # of a pixel: four channels of fp32 for 8 x 8 of them


def made(
    captions: Captions, settings: Settings, story: Story | None, surroundings: Surroundings
) -> Lora:
    """What ``stage.train`` returns."""
    choice = chosen(captions, settings)
    return choice if isinstance(choice, Lora) else trained(captions, choice, story, surroundings)


def chosen(captions: Captions, settings: Settings) -> Choice | Lora:
    """What is to be trained, or what an earlier call has trained; errors as ``stage.train``."""
    run = resolve(settings)
    _check_batch_size(captions, run)
    choice = defaults.choose(run, captions, lambda chosen: _distance(chosen, captions))
    print(f"train: {choice.reason}", flush=True)

    target = run.folder / "lora"
    fingerprint = _fingerprint(captions, choice.run, Hyperparameters.of(choice.run))
    if manifest := artifacts.finished(target, fingerprint):
        lora = _load(target, manifest)
        forget(run.folder / CHECKPOINT)
        print(f"train: nothing to do, {lora}")
        return lora
    _check_disk(captions, choice.run, target)
    _print_concerns(captions, run)
    return choice


def trained(
    captions: Captions, choice: Choice, story: Story | None, surroundings: Surroundings
) -> Lora:
    """Train what ``choice`` says, in this process or as one of several workers."""
    run = choice.run
    hyperparameters = Hyperparameters.of(run)
    fingerprint = _fingerprint(captions, run, hyperparameters)
    path = run.folder / CHECKPOINT / fingerprint[:16] / STATE
    saving = Saving(path, surroundings.along, surroundings.budget)
    state, kept = _optimised(captions, run, story, saving, surroundings)

    def write() -> Lora:
        assert kept is not None  # the first worker's
        with artifacts.building(run.folder / "lora") as folder:
            previews = _write(folder, state, kept, captions, run)
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
        lora = _load(run.folder / "lora", manifest)
        print(f"train: {lora}")
        return lora

    return surroundings.workers.shared(write)


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


def _check_disk(captions: Captions, run: Run, target: Path) -> None:
    from storyboard.models import conditioning
    from storyboard.training import cache

    config = run.base.config("unet")
    width = config.get("encoder_hid_dim") or config["cross_attention_dim"]
    # of a caption that is read in one go
    embedding = width * run.base.text_length * run.plan.dtype.itemsize
    needed = BYTES + embedding * len(conditioning.missing(run, (), cache.texts_of(captions)))
    if not cache.are_made(captions, run):
        needed += int(LATENT_BYTES * run.resolution**2) * len(captions)
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


def _optimised(
    captions: Captions,
    run: Run,
    story: Story | None,
    saving: Saving,
    surroundings: Surroundings,
) -> tuple["TrainingState", Milestones | None]:
    """The LoRA as training ends, and on the first worker what was kept along the way."""
    from storyboard.training import loop
    from storyboard.training.injection import inject
    from storyboard.training.pipeline import TrainingPipeline
    from storyboard.training.progress import Progress

    # 1. What the UNet is trained on
    workers = surroundings.workers
    if workers.is_first:
        print(f"train: caching latents and text embeddings of {len(captions)} pictures", flush=True)
    previews, kept = workers.each(lambda: _along_the_way(run, story, saving, workers.is_first))
    cached, own = workers.each(lambda: _cached(captions, run, story), in_turn=True)

    # 2. The UNet with a LoRA
    hyperparameters = Hyperparameters.of(run)

    pipe = workers.each(
        lambda: TrainingPipeline.load(run.base, ("unet",), run.plan.device, run.plan.dtype)
    )
    if run.plan.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()

    # 3. The steps
    with inject(pipe, hyperparameters), surroundings.live("train", run.train_steps) as live:
        state = loop.optimise(
            pipe,
            cached,
            hyperparameters,
            saving,
            run.plan.train_micro_batch_size,
            Progress(captions, run, pipe.unet, live, previews, kept).report if kept else _no_report,
            run.plan.cuda_graphs,
            own,
            workers,
        )
    return state, kept


def _no_report(step: "Step") -> None:
    """Of all workers but the first."""


def _along_the_way(
    run: Run, story: Story | None, saving: Saving, is_first: bool
) -> tuple["Previews | None", Milestones | None]:
    """What draws and keeps; the first worker alone does."""
    from storyboard.training.previews import Previews

    if not is_first:
        return None, None
    previews = Previews(run, story) if story else None
    return previews, Milestones(saving.path.parent, previews.fingerprint if previews else "")


def _cached(captions: Captions, run: Run, story: Story | None) -> tuple["Cache", "Cache | None"]:
    """Of the training set, and of prior pictures if there are any."""
    from storyboard.training import cache, prior

    cached = cache.prepare(captions, run, prompts(story, run))
    if not run.prior_loss_weight:
        return cached, None
    drawn = prior.draw(run, captions, Hyperparameters.of(run).prior_pictures)
    return cached, cache.prepare(drawn, run, name=cache.PRIOR)


def _write(
    folder: Path, state: "TrainingState", kept: Milestones, captions: Captions, run: Run
) -> list[dict]:
    """Write everything but the manifest into ``folder``; returns the previews."""
    from storyboard.training import loop

    loop.write(state, Hyperparameters.of(run), folder)
    facts = metadata(captions, run, run.train_steps)
    prefix = run.base.family.kohya_prefixes["unet"]
    with disks.writing(folder):
        lora_file.save(folder / "lora.safetensors", state.weights(), run.alpha, facts, prefix)
    kept.copy_to(folder)
    return [{"step": step, "pictures": names} for step, names in sorted(kept.previews.items())]


def prompts(story: Story | None, run: Run) -> list[str]:
    """What is encoded for previews, while the text encoders are loaded for the captions."""
    if story is None:
        return []
    panels = story.resolved(run.seed)
    return [text for panel in panels for text in (panel.prompt, panel.negative_prompt)]
