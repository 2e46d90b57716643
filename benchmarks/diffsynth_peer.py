"""DiffSynth-Studio as its own users run it: pipeline call, data set, training module, loop.

It has had no Kolors since December 2025, so the units that encode text and latents stand here, in
its own form; UNet, VAE and text encoders are the same modules as ours. All else is DiffSynth's: one
picture at a time, everything encoded anew at every step, a constant learning rate.
"""

from pathlib import Path

import torch
from diffsynth.diffusion.base_pipeline import PipelineUnit
from diffsynth.diffusion.ddim_scheduler import DDIMScheduler
from diffsynth.diffusion.loss import FlowMatchSFTLoss
from diffsynth.diffusion.training_module import DiffusionTrainingModule
from diffsynth.pipelines.stable_diffusion import model_fn_stable_diffusion
from diffsynth.pipelines.stable_diffusion_xl import (
    SDXLUnit_InputImageEmbedder,
    SDXLUnit_NoiseInitializer,
    SDXLUnit_ShapeChecker,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from storyboard.models import loading
from storyboard.models.base import Base
from storyboard.models.tokenizing import tokenizer


class Vae(torch.nn.Module):
    """diffusers' VAE with the calls that DiffSynth makes."""

    def __init__(self, vae) -> None:
        super().__init__()
        self.vae = vae
        self.scaling_factor = vae.config.scaling_factor

    def encode(self, images: torch.Tensor):
        # in fp32: SDXL's overflows in fp16; handed on in the pipeline's own type
        encoded = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        return DiagonalGaussianDistribution(encoded.parameters.to(images.dtype))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents.to(self.vae.dtype)).sample


class PromptUnit(PipelineUnit):
    """DiffSynth's SDXLUnit_PromptEmbedder for any base."""

    def __init__(self) -> None:
        super().__init__(
            seperate_cfg=True,
            input_params_posi={"prompt": "prompt"},
            input_params_nega={"prompt": "prompt"},
            output_params=("prompt_embeds", "pooled_prompt_embeds"),
            onload_model_names=("text_encoder", "text_encoder_2"),
        )

    def process(self, pipe, prompt):
        pipe.load_models_to_device(self.onload_model_names)
        with torch.no_grad():
            parts = pipe.text_pipelines[0].encode_prompt(
                prompt=prompt,
                device=torch.device(pipe.device),
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        return {
            "prompt_embeds": parts[0],
            "pooled_prompt_embeds": parts[2] if len(parts) == 4 else None,
        }


class TimeIdsUnit(PipelineUnit):
    """DiffSynth's SDXLUnit_AddTimeIdsComputer, which asks an SDXL text encoder for its width."""

    def __init__(self) -> None:
        super().__init__(input_params=("height", "width"), output_params=("add_time_ids",))

    def process(self, pipe, height, width):
        return {
            "add_time_ids": torch.tensor(
                [[height, width, 0, 0, height, width]], dtype=pipe.torch_dtype, device=pipe.device
            )
        }


def text_pipeline(base: Base, dtype: torch.dtype, device: str):
    """diffusers' pipeline of ``base`` with its text encoders alone."""
    parts = {}
    for component in base.components:
        if component.startswith("text_encoder"):
            parts[component] = loading.load(base, component, dtype).to(device)
            parts[component.replace("text_encoder", "tokenizer")] = tokenizer(base, component)
    return loading.pipeline(base, **parts)


def pipeline(base: Base, dtype: torch.dtype, device: str) -> StableDiffusionXLPipeline:
    """DiffSynth's pipeline around the modules of ``base``."""
    pipe = StableDiffusionXLPipeline(device=device, torch_dtype=dtype)
    pipe.scheduler = DDIMScheduler(base.num_train_timesteps, base.beta_start, base.beta_end)
    pipe.text_pipelines = (text_pipeline(base, dtype, device),)
    pipe.text_encoder = pipe.text_pipelines[0].text_encoder
    pipe.unet = loading.load(base, "unet", dtype).to(device, memory_format=torch.contiguous_format)
    pipe.unet.in_channels = pipe.unet.config.in_channels
    pipe.vae = Vae(
        loading.load(base, "vae", torch.float32).to(device, memory_format=torch.contiguous_format)
    )
    pipe.units = [
        SDXLUnit_ShapeChecker(),
        PromptUnit(),
        SDXLUnit_NoiseInitializer(),
        SDXLUnit_InputImageEmbedder(),
        TimeIdsUnit(),
    ]
    if base.pipeline == "StableDiffusionPipeline":
        pipe.model_fn = model_fn_stable_diffusion
    return pipe


class TrainingModule(DiffusionTrainingModule):
    """As ``examples/stable_diffusion_xl/model_training/train.py`` of DiffSynth-Studio builds it."""

    def __init__(
        self, base: Base, rank: int, targets: tuple[str, ...], dtype: torch.dtype, device: str
    ) -> None:
        super().__init__()
        self.pipe = self.split_pipeline_units("sft", pipeline(base, dtype, device), None, "unet")
        self.switch_pipe_to_training_mode(
            self.pipe, None, "unet", ",".join(targets), rank, task="sft"
        )
        # it has just been set to 1,000 whatever the base
        self.pipe.scheduler.set_timesteps(base.num_train_timesteps, training=True)

    def forward(self, data, inputs=None):
        width, height = data["image"].size
        shared = {
            "input_image": data["image"],
            "height": height,
            "width": width,
            "cfg_scale": 1,
            "rand_device": self.pipe.device,
            "seed": None,
        }
        inputs = shared, {"prompt": data["prompt"]}, {"prompt": ""}
        for unit in self.pipe.units:
            inputs = self.pipe.unit_runner(unit, self.pipe, *inputs)
        shared, positive, _ = inputs
        return FlowMatchSFTLoss(self.pipe, **shared, **positive)


def data_set(folder: Path, resolution: int, samples: int):
    """Its UnifiedDataset over ``metadata.csv`` (image, prompt)."""
    from diffsynth.core.data.unified_dataset import UnifiedDataset

    return UnifiedDataset(
        base_path=str(folder),
        metadata_path=str(folder / "metadata.csv"),
        data_file_keys=("image",),
        max_data_items=samples,
        main_data_operator=UnifiedDataset.default_image_operator(
            str(folder), height=resolution, width=resolution
        ),
    )
