"""Sections of ``benchmarks.gpu``: panels at full size, ours and the peers'; the text encoder."""

import time

import torch

from benchmarks import gpu_bases, gpu_training, rendering_contenders
from benchmarks.side_by_side import PEER_STEPS, fresh
from storyboard.models.base import Base

PANELS = 8
PEER_SECONDS = 35  # at least so many must be left for a peer
BASE_SECONDS = 30


def drawing(card) -> None:
    """Eight Kolors panels: ours, a diffusers loop, DiffSynth's pipeline (one, times eight)."""
    base = gpu_bases.fetched(card, "kolors")
    measure_panels(card, base)
    for peer in ("diffsynth", "diffusers"):
        if card.left() < PEER_SECONDS and not card.dry:
            card.note(f"{base.name}, {peer}", "no time left")
            continue
        _peer_panels(card, base, peer, panels=1)


def measure_panels(card, base: Base) -> None:
    """Eight panels by ``render``: all of it once, then its parts."""
    from storyboard import render
    from storyboard.models import conditioning
    from storyboard.rendering import sampling

    run = gpu_bases.run(card, base)
    prompts = gpu_bases.prompts(PANELS)
    began = time.perf_counter()
    with card.peak(f"{base.name}, eight panels, peak"):
        render(gpu_bases.story(prompts), run.settings, None)
    card.note(
        f"{base.name}, eight panels, first time",
        time.perf_counter() - began,
        f"s, loading and text encoding counted, {run.plan}",
    )

    texts = [text for prompt in prompts for text in (prompt.text, prompt.negative)]
    embeddings = conditioning.encode(run, texts)
    began = time.perf_counter()
    pipe = sampling.load_pipeline(base, run.plan)
    card.synchronize()
    card.note(f"{base.name}, UNet and VAE loaded", time.perf_counter() - began, "s")

    size = run.plan.render_micro_batch_size
    batches = [prompts[start : start + size] for start in range(0, PANELS, size)]

    def denoise() -> torch.Tensor:
        latents = [
            sampling.denoise(
                pipe,
                [embeddings[prompt.text] for prompt in batch],
                [embeddings[prompt.negative] for prompt in batch],
                [prompt.seed for prompt in batch],
                run.resolution,
                run.num_inference_steps,
                run.guidance_scale,
                run.guidance_end,
            )
            for batch in batches
        ]
        return torch.cat(latents)

    latents = denoise()
    denoised = card.seconds(denoise, 3, 0)
    decoded = card.seconds(
        lambda: [sampling.decode(pipe, latent[None]) for latent in latents], 3, 1
    )
    steps = f"s, {run.num_inference_steps} steps, {size} at once"
    card.note(f"{base.name}, eight panels denoised", denoised, steps)
    card.note(f"{base.name}, eight panels decoded", decoded, "s, VAE in fp32")
    card.note(f"{base.name}, eight panels, warm", denoised + decoded, "s")


def _peer_panels(card, base: Base, peer: str, panels: int) -> None:
    """Seconds a panel of the peer's own way; loading and the first panel shown apart."""
    run = gpu_bases.run(card, base, output=str(fresh(card.work / "peer")))
    steps = 3 if card.dry else PEER_STEPS
    task = rendering_contenders.Task(
        run.settings, run, gpu_bases.prompts(panels + 1), lora=None, steps=steps
    )
    began = time.time()
    with card.peak(f"{base.name}, {peer}, peak"):
        paths = rendering_contenders.CONTENDERS[peer](task)
    saved = [path.stat().st_mtime for path in paths]  # a panel is saved when it is drawn
    card.note(f"{base.name}, {peer}, loading and the first panel", saved[0] - began, "s")
    card.note(
        f"{base.name}, {peer}, eight panels",
        8 * (saved[-1] - saved[0]) / panels,
        f"s, {steps} steps, {panels} measured, times {8 // panels}",
    )


def text(card) -> None:
    """Kolors' text encoder loaded, used, freed."""
    from storyboard.models import conditioning

    base = gpu_bases.fetched(card, "kolors")
    run = gpu_bases.run(card, base, output=str(card.work / "text"))
    card.note("text encoder on the CPU", run.plan.text_encoder_on_cpu)
    card.free()
    before = torch.cuda.memory_allocated() if card.device == "cuda" else 0
    prompts = gpu_bases.prompts(PANELS)
    texts = [words for prompt in prompts for words in (prompt.text, prompt.negative)]
    began = time.perf_counter()
    with card.peak("text encoder, peak"):
        conditioning.encode(run, texts)
    card.note("text encoder loaded, nine prompts, freed", time.perf_counter() - began, "s")
    card.free()
    after = torch.cuda.memory_allocated() if card.device == "cuda" else 0
    card.note("left on the card afterwards", (after - before) / 2**20, "MiB")


def others(card) -> None:
    """SDXL and SD 1.5, shorter."""
    for name in ("sdxl", "sd15"):
        if card.left() < BASE_SECONDS and not card.dry:
            card.note(name, "no time left")
            continue
        base = gpu_bases.fetched(card, name)
        if card.dry:
            gpu_training.measure_steps(card, base, plain=(1,), checkpointed=())
        else:
            gpu_training.measure_steps(card, base, plain=(4,), checkpointed=(4,))
        measure_panels(card, base)
