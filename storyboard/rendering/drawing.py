"""Drawing with a diffusers Kolors pipeline: load, attach a LoRA whole, encode prompts, denoise."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from .. import lora as lora_file
from ..bases import Base
from ..errors import LoraError, RenderingError
from ..quiet import quiet

BLANK = 2.0  # standard deviation within a channel, 0 to 255, under which a picture shows nothing


def device_and_dtype() -> tuple[str, torch.dtype]:
    """CUDA in bf16 where the card has it, CUDA in fp32 where not, the CPU in fp32."""
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return "cpu", torch.float32


def scheduler(base: Base):
    """DPM-Solver++ 2M (https://arxiv.org/abs/2211.01095) on Karras sigmas, as ComfyUI's dpmpp_2m and karras."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        num_train_timesteps=base.num_train_timesteps, beta_start=base.beta_start, beta_end=base.beta_end, beta_schedule="scaled_linear",
        algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True, final_sigmas_type="zero", steps_offset=1, timestep_spacing="leading",
    )


def load_pipeline(base: Base, lora: Path | None = None):
    """A KolorsPipeline of ``base`` with our sampler, and the LoRA file attached if one is given.

    Raises:
        BaseError: Weights are missing or cut off.
        LoraError: The file was made for another base, or did not attach whole.
    """
    base.check()
    device, dtype = device_and_dtype()
    with quiet():
        from diffusers import KolorsPipeline

        pipe = KolorsPipeline.from_pretrained(base.folder, dtype={"default": dtype, "vae": torch.float32}, use_safetensors=True)
        pipe.to(device)
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    pipe.scheduler = scheduler(base)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        attach(pipe, base, lora)
    return pipe


def attach(pipe, base: Base, lora: Path) -> int:
    """Attach a kohya-form LoRA to ``pipe.unet`` and count; returns the number of modules it changes.

    Raises:
        LoraError: It names another base, or any of its modules found no place.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    named = lora_file.modules(lora)
    trained_on = lora_file.metadata(lora).get("ss_base_model_version")
    if trained_on not in (None, base.name):
        raise LoraError(f"{lora} was trained on the base {trained_on!r}, not on {base.name!r}: set base={trained_on!r} or train again.")
    available = {"lora_unet_" + name.replace(".", "_"): module for name, module in pipe.unet.named_modules()}
    if strangers := named - available.keys():
        raise LoraError(f"{len(strangers)} of the {len(named)} modules in {lora} are not in the base {base.name!r} (such as {min(strangers)}): it was trained on another base.")
    try:
        with quiet():
            pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="story")
    except (RuntimeError, ValueError) as error:
        raise LoraError(f"{lora} does not fit the base {base.name!r} ({str(error).splitlines()[0]}): it was trained on another base.") from error
    attached = {name for name, module in pipe.unet.named_modules() if isinstance(module, BaseTunerLayer) and "story" in module.lora_A}
    if len(attached) != len(named):
        raise LoraError(f"Only {len(attached)} of the {len(named)} modules in {lora} attached to the base {base.name!r}: train it again.")
    return len(attached)


@torch.no_grad()
def encode(pipe, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """n prompts -> prompt_embeds (n, l, d), pooled_prompt_embeds (n, d)."""
    with quiet():
        embeds, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    return embeds, pooled


@torch.no_grad()
def draw(
    pipe, positive: tuple[torch.Tensor, torch.Tensor], negative: tuple[torch.Tensor, torch.Tensor], seeds: list[int],
    resolution: int, steps: int, guidance_scale: float, on_step: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """Denoise one batch; picture i starts from ``seeds[i]``'s noise, made on the CPU on every device.

    A picture is the same alone as in a batch within 1/255 in fp32 (the arithmetic is grouped otherwise).

    Raises:
        RenderingError: A picture came out with values that are not finite, or all of one colour.
    """
    def report(_pipe, step, _timestep, tensors):
        if on_step:
            on_step(step + 1)
        return tensors

    result = pipe(
        prompt_embeds=positive[0], pooled_prompt_embeds=positive[1], negative_prompt_embeds=negative[0], negative_pooled_prompt_embeds=negative[1],
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds], num_inference_steps=steps, guidance_scale=guidance_scale,
        height=resolution, width=resolution, output_type="latent", callback_on_step_end=report,
    ).images
    latents = result.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
    pictures = []
    for place, latent in enumerate(latents):  # one at a time: the decoder is where memory peaks
        decoded = pipe.vae.decode(latent[None]).sample[0].float().cpu()
        if not torch.isfinite(decoded).all():
            raise RenderingError(f"The picture of seed {seeds[place]} is not finite: lower the LoRA's learning_rate or guidance_scale and render again.")
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
        if pixels.flatten(1).std(1).max() < BLANK:
            raise RenderingError(f"The picture of seed {seeds[place]} came out blank: lower guidance_scale or train the LoRA again with a lower learning_rate.")
        pictures.append(Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()))
    return pictures
