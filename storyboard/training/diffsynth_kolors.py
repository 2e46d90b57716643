"""Kolors for DiffSynth-Studio 2.1, which dropped it in December 2025: registration, pipeline units, pipeline.

No model code: the UNet, the VAE and ChatGLM3 are diffusers' classes, registered with DiffSynth's model pool.
"""

import contextlib
import io

import torch
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core import ModelConfig, hash_model_file
from diffsynth.diffusion.base_pipeline import BasePipeline, PipelineUnit
from diffsynth.diffusion.ddim_scheduler import DDIMScheduler
from diffsynth.pipelines.stable_diffusion_xl import SDXLUnit_ShapeChecker, model_fn_stable_diffusion_xl

from ..bases import Base
from ..quiet import quiet

with quiet():
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

# The pool imports a class by the module that defines it, past diffusers' lazy modules.
CLASSES = {
    "text_encoder": f"{__name__}.ChatGLMTextEncoder",
    "unet": "diffusers.models.unets.unet_2d_condition.UNet2DConditionModel",
    "vae": "diffusers.models.autoencoders.autoencoder_kl.AutoencoderKL",
}
FILES = {"text_encoder": "text_encoder_file", "unet": "unet_file", "vae": "vae_file"}


class ChatGLMTextEncoder(ChatGLMModel):
    """ChatGLM with plain keyword arguments: DiffSynth prints a model's arguments as JSON."""

    def __init__(self, **configuration: object) -> None:
        super().__init__(ChatGLMConfig(**configuration), empty_init=False)


def register(base: Base, component: str) -> str:
    """Tell DiffSynth's pool what the weight file of ``component`` holds; returns the name it goes by."""
    name = f"storyboard_{base.name}_{component}"
    arguments = base.config(component)
    for foreign in ("architectures", "dtype", "model_type", "transformers_version"):  # about the file, not the model
        arguments.pop(foreign, None)
    found = hash_model_file(str(base.folder / getattr(base, FILES[component])))
    MODEL_CONFIGS[:] = [entry for entry in MODEL_CONFIGS if entry["model_name"] != name and entry["model_hash"] != found]
    MODEL_CONFIGS.append({"model_hash": found, "model_name": name, "model_class": CLASSES[component], "extra_kwargs": arguments})
    return name


class PromptUnit(PipelineUnit):
    """prompts (list of n) -> prompt_embeds (n, text_length, d), pooled_prompt_embeds (n, d), as KolorsPipeline does."""

    def __init__(self, text_length: int) -> None:
        super().__init__(
            seperate_cfg=True, input_params_posi={"prompt": "prompt"}, input_params_nega={"prompt": "prompt"},
            output_params=("prompt_embeds", "pooled_prompt_embeds"), onload_model_names=("text_encoder",),
        )
        self.text_length = text_length

    def process(self, pipe, prompt):
        pipe.load_models_to_device(self.onload_model_names)
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt").to(pipe.device)
        hidden = pipe.text_encoder(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], position_ids=tokens["position_ids"],
            output_hidden_states=True, use_cache=False,
        ).hidden_states
        return {"prompt_embeds": hidden[-2].permute(1, 0, 2).clone(), "pooled_prompt_embeds": hidden[-1][-1].clone()}


class LatentsUnit(PipelineUnit):
    """input_image (n, 3, h, w) in [-1, 1] -> input_latents (n, 4, h / 8, w / 8): the posterior's mean, scaled.

    DiffSynth's own units want the UNet at hand, take one picture at a time and keep it in the cache.
    """

    def __init__(self) -> None:
        super().__init__(input_params=("input_image",), output_params=("input_latents", "input_image"), onload_model_names=("vae",))

    def process(self, pipe, input_image):
        if input_image is None:
            return {}
        pipe.load_models_to_device(self.onload_model_names)
        weight = next(pipe.vae.parameters())  # fp32: SDXL's VAE overflows in fp16
        latents = pipe.vae.encode(input_image.to(weight.device, weight.dtype)).latent_dist.mean
        return {"input_latents": latents * pipe.vae.config.scaling_factor, "input_image": None}


class TimeIdsUnit(PipelineUnit):
    """original_size, crop (n, 2) each in pixels -> add_time_ids (n, 6): original h, w, crop top, left, target h, w."""

    def __init__(self) -> None:
        super().__init__(input_params=("original_size", "crop", "height", "width"), output_params=("add_time_ids",))

    def process(self, pipe, original_size, crop, height, width):
        target = torch.tensor([[height, width]], dtype=torch.float32).expand(len(original_size), 2)
        return {"add_time_ids": torch.cat([original_size.float(), crop.float(), target], 1)}


class KolorsTrainingPipeline(BasePipeline):
    """What training needs of Kolors: any of text encoder, VAE and UNet, and the units between them."""

    def __init__(self, base: Base, device: str, torch_dtype: torch.dtype) -> None:
        super().__init__(device=device, torch_dtype=torch_dtype, height_division_factor=8, width_division_factor=8)
        self.base = base
        self.scheduler = DDIMScheduler(base.num_train_timesteps, base.beta_start, base.beta_end)
        # DiffSynth's switch_pipe_to_training_mode would set 1,000 here whatever the base
        self.scheduler.set_timesteps(base.num_train_timesteps, training=True)
        self.text_encoder = self.vae = self.unet = self.tokenizer = None
        self.in_iteration_models = ("unet",)
        self.prompt_unit, self.latents_unit = PromptUnit(base.text_length), LatentsUnit()
        self.units = [SDXLUnit_ShapeChecker(), self.prompt_unit, self.latents_unit, TimeIdsUnit()]
        self.model_fn = model_fn_stable_diffusion_xl

    @classmethod
    def load(cls, base: Base, components: tuple[str, ...], device: str, torch_dtype: torch.dtype) -> "KolorsTrainingPipeline":
        """Load only ``components`` (of text_encoder, vae, unet) through DiffSynth's pool; the VAE always in fp32."""
        pipe = cls(base, device, torch_dtype)
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            for component in components:
                name = register(base, component)
                config = ModelConfig(
                    path=str(base.folder / getattr(base, FILES[component])), skip_download=True,
                    computation_dtype=torch.float32 if component == "vae" else torch_dtype, computation_device=device,
                )
                setattr(pipe, component, pipe.download_and_load_models([config]).fetch_model(name))
        if "text_encoder" in components:
            pipe.tokenizer = ChatGLMTokenizer.from_pretrained(base.folder / "tokenizer")
        pipe.freeze_except([])
        return pipe

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """n prompts -> prompt_embeds (n, text_length, d), pooled_prompt_embeds (n, d)."""
        with quiet():
            return self.prompt_unit.process(self, prompts)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) in [-1, 1] -> latents (n, 4, h / 8, w / 8)."""
        return self.latents_unit.process(self, images)["input_latents"]
