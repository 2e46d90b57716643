"""A base in DiffSynth-Studio 2.1, for training: loading, latents, schedule.

There is no model code here. UNet and VAE are diffusers' classes, loaded by DiffSynth's model pool:
its own have no Kolors since December 2025 and ignore gradient checkpointing for SD 1.5 and SDXL.
Its text units are not used, because they pool SDXL's embedding at token 0.
"""

import importlib
from typing import Any

import torch
from diffsynth.core import ModelConfig
from diffsynth.diffusion.base_pipeline import BasePipeline, PipelineUnit
from diffsynth.diffusion.ddim_scheduler import DDIMScheduler

from storyboard.compat import diffsynth
from storyboard.compat.quiet import quiet
from storyboard.models import loading
from storyboard.models.base import Base


class LatentsUnit(PipelineUnit):
    """input_image (n, 3, h, w) in [-1, 1] -> input_latents (n, 4, h / 8, w / 8), scaled.

    They are the mean of the VAE's posterior. DiffSynth's own units need the UNet, take one picture
    at a time and keep it in the cache.
    """

    def __init__(self) -> None:
        super().__init__(
            input_params=("input_image",),
            output_params=("input_latents", "input_image"),
            onload_model_names=("vae",),
        )

    def process(self, pipe: "TrainingPipeline", input_image: torch.Tensor | None) -> dict:
        """DiffSynth's hook."""
        if input_image is None:
            return {}
        pipe.load_models_to_device(self.onload_model_names)
        weight = next(pipe.vae.parameters())  # fp32: SDXL's VAE overflows in fp16
        latents = pipe.vae.encode(input_image.to(weight.device, weight.dtype)).latent_dist.mean
        return {"input_latents": latents * pipe.vae.config.scaling_factor, "input_image": None}


class TrainingPipeline(BasePipeline):
    """What training needs of a base beside its text embeddings: VAE, UNet, schedule.

    Attributes:
        alphas_cumprod: (t,) of the schedule, on the device.
        model_fn: DiffSynth's function that calls the UNet of this family.
    """

    def __init__(self, base: Base, device: str, torch_dtype: torch.dtype) -> None:
        super().__init__(
            device=device,
            torch_dtype=torch_dtype,
            height_division_factor=8,
            width_division_factor=8,
        )
        self.base = base
        self.scheduler = DDIMScheduler(
            base.num_train_timesteps,
            base.beta_start,
            base.beta_end,
            prediction_type=base.prediction_type,
            rescale_zero_terminal_snr=base.zero_terminal_snr,
        )
        # DiffSynth's switch_pipe_to_training_mode would set 1,000 here for every base
        self.scheduler.set_timesteps(base.num_train_timesteps, training=True)
        self.alphas_cumprod = torch.tensor(self.scheduler.alphas_cumprod, device=device)

        self.vae: Any = None  # modules, once they are loaded
        self.unet: Any = None
        self.in_iteration_models = ("unet",)
        self.latents_unit = LatentsUnit()
        self.units = [self.latents_unit]
        module, name = base.family.forward
        self.model_fn = getattr(importlib.import_module(module), name)

    @classmethod
    def load(
        cls, base: Base, components: tuple[str, ...], device: str, torch_dtype: torch.dtype
    ) -> "TrainingPipeline":
        """Load only ``components`` (of vae, unet) through DiffSynth's pool; the VAE always in fp32.

        Raises:
            BaseError: The weights are not those that ``config.json`` describes.
        """
        pipe = cls(base, device, torch_dtype)
        for component in components:
            loading.check_layout(base, component)
            with quiet(), diffsynth.silent():
                setattr(pipe, component, pipe._load_component(component))
        pipe.freeze_except([])
        return pipe

    def _load_component(self, component: str) -> torch.nn.Module:
        base, files = self.base, self.base.weight_files(component)
        name = f"storyboard_{base.name}_{component}"
        dtype = torch.float32 if component == "vae" else self.torch_dtype
        model_class = ".".join(base.family.classes[component])
        with diffsynth.registered(name, files, model_class, base.config(component)):
            config = ModelConfig(
                state_dict=dict(loading.read(base, component, dtype)),
                path=[str(path) for path in files],
                skip_download=True,
                computation_dtype=dtype,
                computation_device=self.device,
            )
            return self.download_and_load_models([config]).fetch_model(name)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) in [-1, 1] -> latents (n, 4, h / 8, w / 8)."""
        return self.latents_unit.process(self, images)["input_latents"]
