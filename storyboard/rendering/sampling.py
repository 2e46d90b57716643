"""Drawing with a diffusers pipeline: load, denoise, decode."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image, ImageStat

from storyboard.compat import diffusers
from storyboard.compat.quiet import quiet
from storyboard.compat.torch import true_fp32
from storyboard.errors import BaseError, RenderingError
from storyboard.lora.attaching import attach
from storyboard.models import devices
from storyboard.models import loading as models
from storyboard.models.bases import Base
from storyboard.models.conditioning import Embedding, stack
from storyboard.models.memory import Plan

TILE = 512  # pixels of a side
# called after a step with its number, from 1, and the latents of the batch as they stand
OnStep = Callable[[int, torch.Tensor], None]
BLANK = 2.0  # standard deviation within a channel, 0 to 255, under which a picture shows nothing


def scheduler(base: Base):
    """DPM-Solver++ 2M (https://arxiv.org/abs/2211.01095) on Karras sigmas.

    That is ComfyUI's ``dpmpp_2m`` and ``karras``. With zero terminal SNR on trailing timesteps
    (https://arxiv.org/abs/2305.08891, section 3.3), as ComfyUI's ``simple``: of Karras sigmas,
    which would begin at the 4,096 that stands for infinity, two in three would lie where there is
    nothing but noise.
    """
    from diffusers import DPMSolverMultistepScheduler

    spacing = {"use_karras_sigmas": True, "timestep_spacing": "leading"}
    if base.zero_terminal_snr:
        spacing = {
            "use_karras_sigmas": False,
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
        }
    return DPMSolverMultistepScheduler(
        num_train_timesteps=base.num_train_timesteps,
        beta_start=base.beta_start,
        beta_end=base.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=base.prediction_type,
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        steps_offset=1,
        **spacing,
    )


def load_pipeline(
    base: Base,
    plan: Plan,
    lora: Path | None = None,
    unet: torch.nn.Module | None = None,
    strength: float = 1.0,
):
    """The pipeline of ``base`` without text encoders, with our sampler and a LoRA's UNet modules.

    Args:
        unet: Draws in place of the base's own, which is then not loaded.
        strength: Of the LoRA.

    Raises:
        BaseError: Weights are missing, cut off or not those of the base.
        LoraError: The file was made for another base, or did not attach whole.
    """
    base.check()
    device = "cpu" if plan.offload else plan.device
    vae = models.load(base, "vae", torch.float32, device)  # SDXL's VAE overflows in fp16
    own_unet = models.load(base, "unet", plan.dtype, device) if unet is None else unet
    pipe = models.pipeline(base, vae=vae, unet=own_unet, scheduler=scheduler(base))

    with quiet():
        # one in training must stay where it is: CUDA graphs and AdamW's moments know its memory
        if unet is None:
            # transformers between convolutions cost a card more in this layout than convolutions
            # gain (benchmarks/RESULTS.md)
            on_cpu = plan.device == "cpu"
            memory_format = torch.channels_last if on_cpu else torch.contiguous_format
            pipe.unet.to(memory_format=memory_format)
        if plan.device != devices.MPS:
            pipe.vae.to(memory_format=torch.channels_last)

        if lora is not None:
            attached = attach(pipe, base, lora, strength)
            # in 16 bits a LoRA that is added to the weights loses its small values
            if attached and plan.precision == "fp32":
                pipe.fuse_lora()
                pipe.unload_lora_weights()

        if plan.vae_tiling:
            decode_in_tiles(pipe.vae)
        if plan.offload and unet is None:
            pipe.enable_model_cpu_offload()
        else:
            pipe.to(plan.device)
    return pipe


def decode_in_tiles(vae) -> None:
    """Let ``vae`` decode in tiles of at most TILE pixels.

    diffusers' own are as large as the VAE's training pictures: one of 1024 is a single tile.
    """
    vae.enable_tiling()
    vae.tile_sample_min_size = min(vae.tile_sample_min_size, TILE)
    vae.tile_latent_min_size = vae.tile_sample_min_size // 8


def draw(
    pipe,
    positive: list[Embedding],
    negative: list[Embedding],
    seeds: list[int],
    resolution: int,
    steps: int,
    guidance_scale: float,
    guidance_end: float = 1.0,
    on_step: OnStep | None = None,
    extra_rows: int = 0,
    **options: object,
) -> Iterator[Image.Image]:
    """Draw one batch; its pictures are decoded one after another.

    Picture i starts from the noise of ``seeds[i]``, made on the CPU on every device. A picture is
    the same alone as in a batch within 1/255 in fp32 (the arithmetic is grouped otherwise).

    Args:
        extra_rows: So many pictures at the start of the batch are denoised and not decoded.
        options: Further arguments of ``denoise``.

    Raises:
        RenderingError: A picture came out with values that are not finite, or all of one colour.
        BaseError: That is because weights are not finite.
    """
    latents = denoise(
        pipe,
        positive,
        negative,
        seeds,
        resolution,
        steps,
        guidance_scale,
        guidance_end,
        on_step,
        **options,
    )
    # one at a time: the decoder is where memory peaks
    for seed, latent in list(zip(seeds, latents, strict=True))[extra_rows:]:
        decoded = decode(pipe, latent[None])[0]
        if not torch.isfinite(decoded).all():
            if where := models.damaged({"vae": pipe.vae, "unet": pipe.unet}):
                raise BaseError(
                    f"The picture of seed {seed} is not finite, for {where}: the weights of the "
                    "base or of the LoRA are damaged, get them again."
                )
            raise RenderingError(
                f"The picture of seed {seed} is not finite: lower the LoRA's learning_rate or "
                "guidance_scale, or set precision to bf16 or fp32, and render again."
            )
        image = as_image(decoded)
        if max(ImageStat.Stat(image).stddev) < BLANK:
            raise RenderingError(
                f"The picture of seed {seed} came out blank: lower guidance_scale or train the "
                "LoRA again with a lower learning_rate."
            )
        yield image


def as_image(decoded: torch.Tensor) -> Image.Image:
    """(3, h, w) of ``decode`` in 8 bits."""
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
    return Image.fromarray(pixels.byte().permute(1, 2, 0).numpy())


# of a pipeline's call, those that hold the negative's half under guidance
GUIDED_TENSORS = ("prompt_embeds", "add_text_embeds", "add_time_ids")


@torch.no_grad()
def denoise(
    pipe,
    positive: list[Embedding],
    negative: list[Embedding],
    seeds: list[int],
    resolution: int,
    steps: int,
    guidance_scale: float,
    guidance_end: float = 1.0,
    on_step: OnStep | None = None,
    image: torch.Tensor | None = None,
    strength: float = 1.0,
    text_length: int = 0,
    **options: object,
) -> torch.Tensor:
    """Latents (n, 4, resolution / 8, resolution / 8) of n pictures, scaled as the UNet knows them.

    Args:
        guidance_end: Share of the steps after which classifier-free guidance ends, 0 to 1: layout
            and mood are decided by then, and a step without guidance costs half
            (https://arxiv.org/abs/2404.07724).
        image: Where ``pipe`` is one for image-to-image: latents to start from.
        strength: Share of the steps that is taken there.
        text_length: Tokens that the embeddings are repeated to, where the lengths of the batch
            divide it.
        options: Further arguments of ``pipe``.
    """
    doubled = [name for name in GUIDED_TENSORS if name in diffusers.callback_tensors(pipe)]
    skipped = steps - min(int(steps * strength), steps)  # as diffusers counts
    last_guided = round(steps * guidance_end) - skipped

    def after_step(pipe, step, _timestep, tensors):
        if on_step:
            on_step(step + 1 + skipped, tensors["latents"])
        ends = step + 1 == last_guided < steps - skipped
        if ends and pipe.do_classifier_free_guidance:
            diffusers.end_guidance(pipe)
            tensors |= {name: tensors[name].chunk(2)[1] for name in doubled}
        return tensors

    inputs = _embedding_inputs(pipe, positive, negative, text_length)
    for name in ("height", "width"):
        if name in inspect.signature(pipe.__call__).parameters:
            inputs[name] = resolution
    if image is not None:
        device = diffusers.execution_device(pipe)
        inputs |= {"image": image.to(device, pipe.unet.dtype), "strength": strength}

    with true_fp32(pipe.unet.dtype):
        return pipe(
            **inputs,
            **options,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            guidance_scale=guidance_scale if last_guided > 0 else 1.0,
            output_type="latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents", *doubled],
        ).images


def _embedding_inputs(
    pipe, positive: list[Embedding], negative: list[Embedding], text_length: int
) -> dict[str, object]:
    """Arguments of ``pipe`` for the prompts of a batch."""
    device, dtype = diffusers.execution_device(pipe), pipe.unet.dtype
    tokens, pooled = (part.to(device, dtype) for part in stack([*positive, *negative], text_length))
    prompt_embeds, negative_prompt_embeds = tokens.chunk(2)
    inputs = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    if pooled.shape[1]:
        names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        inputs |= dict(zip(names, pooled.chunk(2), strict=True))
    return inputs


@torch.no_grad()
def decode(pipe, latents: torch.Tensor) -> torch.Tensor:
    """Latents (n, 4, h, w) -> pictures (n, 3, 8 h, 8 w) in about [-1, 1], fp32 on the CPU."""
    vae = pipe.vae
    with true_fp32(pipe.unet.dtype):
        decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return decoded.float().cpu()
