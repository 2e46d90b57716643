"""Kolors, SDXL and SD 1.5 for DiffSynth-Studio 2.1: registration, pipeline unit, pipeline.

No model code: UNet and VAE are diffusers' classes, registered with DiffSynth's model pool. Its own have no Kolors since
December 2025, and ignore gradient checkpointing for SD 1.5 and SDXL; its text units pool SDXL's embedding at token 0.
"""

import contextlib
import importlib
import io

import torch
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core import ModelConfig, hash_model_file
from diffsynth.diffusion.base_pipeline import BasePipeline, PipelineUnit
from diffsynth.diffusion.ddim_scheduler import DDIMScheduler

from storyboard.compat.quiet import quiet
from storyboard.models import loading as models
from storyboard.models.bases import Base


def register(base: Base, component: str) -> str:
    """Tell DiffSynth's pool what the weights of ``component`` are; returns the name they go by."""
    name = f"storyboard_{base.name}_{component}"
    found = hash_model_file([str(path) for path in base.weight_files(component)])
    MODEL_CONFIGS[:] = [
        entry
        for entry in MODEL_CONFIGS
        if entry["model_name"] != name and entry["model_hash"] != found
    ]
    MODEL_CONFIGS.append(
        {
            "model_hash": found,
            "model_name": name,
            "model_class": ".".join(base.family.classes[component]),
            "extra_kwargs": base.config(component),
        }
    )
    return name


class LatentsUnit(PipelineUnit):
    """input_image (n, 3, h, w) in [-1, 1] -> input_latents (n, 4, h / 8, w / 8): the posterior's mean, scaled.

    DiffSynth's own units want the UNet at hand, take one picture at a time and keep it in the cache.
    """

    def __init__(self) -> None:
        super().__init__(
            input_params=("input_image",),
            output_params=("input_latents", "input_image"),
            onload_model_names=("vae",),
        )

    def process(self, pipe, input_image):
        if input_image is None:
            return {}
        pipe.load_models_to_device(self.onload_model_names)
        weight = next(pipe.vae.parameters())  # fp32: SDXL's VAE overflows in fp16
        latents = pipe.vae.encode(input_image.to(weight.device, weight.dtype)).latent_dist.mean
        return {"input_latents": latents * pipe.vae.config.scaling_factor, "input_image": None}


class TrainingPipeline(BasePipeline):
    """What training needs of a base beside its text embeddings: VAE, UNet, schedule."""

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
        # DiffSynth's switch_pipe_to_training_mode would set 1,000 here whatever the base
        self.scheduler.set_timesteps(base.num_train_timesteps, training=True)
        self.alphas_cumprod = torch.tensor(self.scheduler.alphas_cumprod, device=device)  # (t,)
        self.vae = self.unet = None
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
            models.check_layout(base, component)
            with quiet(), contextlib.redirect_stdout(io.StringIO()):
                name = register(base, component)
                dtype = torch.float32 if component == "vae" else torch_dtype
                config = ModelConfig(
                    state_dict=dict(models.read(base, component, dtype)),
                    path=[str(path) for path in base.weight_files(component)],
                    skip_download=True,
                    computation_dtype=dtype,
                    computation_device=device,
                )
                setattr(pipe, component, pipe.download_and_load_models([config]).fetch_model(name))
        pipe.freeze_except([])
        return pipe

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) in [-1, 1] -> latents (n, 4, h / 8, w / 8)."""
        return self.latents_unit.process(self, images)["input_latents"]
