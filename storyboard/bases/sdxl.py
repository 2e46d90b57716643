"""Stable Diffusion XL base 1.0; prompts in English."""

from ..download import HubModel
from .base import Base

BASE = Base(
    name="sdxl",
    title="Stable Diffusion XL base 1.0",
    pipeline="StableDiffusionXLPipeline",
    architecture="stable-diffusion-xl-v1-base",
    kohya_name="sdxl_base_v1-0",
    modelscope="stabilityai/stable-diffusion-xl-base-1.0",
    huggingface="stabilityai/stable-diffusion-xl-base-1.0",
    download=6_940_000_000,
    resolution=1024,
    resolution_step=64,
    text_length=77,
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    learning_rate=1e-4,
    train_steps=800,
    train_batch_size=4,
    num_inference_steps=25,
    guidance_scale=6.0,
    controlnets={
        "edges": HubModel(
            "AI-ModelScope/controlnet-canny-sdxl-1.0", "diffusers/controlnet-canny-sdxl-1.0"
        ),
        "depth": HubModel(huggingface="diffusers/controlnet-depth-sdxl-1.0"),
        "pose": HubModel(huggingface="xinsir/controlnet-openpose-sdxl-1.0"),
    },
    ip_adapter=(
        HubModel("AI-ModelScope/IP-Adapter", "h94/IP-Adapter"),
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        "models/image_encoder",
    ),
)
