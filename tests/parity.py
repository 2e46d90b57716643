"""The same pictures by diffusers alone and by our path."""

from dataclasses import replace

import torch

from storyboard.models import bases, conditioning, memory
from storyboard.models.run import run_on
from storyboard.rendering import sampling
from tests import tiny

NAMES = ("kolors", "sdxl", "sd15")


def of_diffusers(name: str, folder, dtype=torch.float32):
    """diffusers' own pipeline, with nothing of ours but the sampler's settings."""
    import diffusers

    without_checker = {"safety_checker": None} if name == "sd15" else {}
    pipe = getattr(diffusers, bases.get(name).pipeline).from_pretrained(
        folder, variant="fp16", dtype=dtype, **without_checker
    )
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_karras_sigmas=True,
        final_sigmas_type="zero",
        timestep_spacing="leading",
        beta_end=tiny.BETA_END[name],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def name_text_model(pipe):
    """Let diffusers' ``clip_skip`` of SD 1.5 find ``text_model``, which transformers 5 lacks."""
    if not hasattr(pipe.text_encoder, "text_model"):
        # past torch, to which it would be a part of itself
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    return pipe


def alone(pipe, prompt: str, negative: str, steps: int = 3, side: int = 64) -> torch.Tensor:
    """A picture (3, side, side) in [0, 1] drawn by diffusers from text to pixels."""
    return pipe(
        prompt=[prompt],
        negative_prompt=[negative] if negative else None,
        generator=[torch.Generator("cpu").manual_seed(7)],
        num_inference_steps=steps,
        guidance_scale=4.0,
        height=side,
        width=side,
        output_type="pt",
    ).images[0]


def encode(base, settings, prompts, captions=(), adapter=None):
    """Embeddings of ``prompts`` on ``base``, on the plan that the machine gets."""
    run = replace(run_on(base, settings), plan=memory.plan(base, settings))
    return conditioning.encode(run, prompts, captions, adapter)


def ours(base, settings, prompt: str, negative: str, lora=None, side: int = 64) -> torch.Tensor:
    """The same by our path."""
    embeddings = encode(base, settings, [prompt, negative])
    pipe = sampling.load_pipeline(base, memory.plan(base, settings), lora)
    latents = sampling.denoise(
        pipe, [embeddings[prompt]], [embeddings[negative]], [7], side, 3, 4.0
    )
    return pixels(pipe, latents)[0]


def pixels(pipe, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, side, side) in [0, 1]."""
    return (sampling.decode(pipe, latents) / 2 + 0.5).clamp(0, 1)
