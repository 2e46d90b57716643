"""Stable Diffusion 1.5; prompts in English."""

from ..download import HubModel
from .base import Base

BASE = Base(
    name="sd15",
    title="Stable Diffusion 1.5",
    pipeline="StableDiffusionPipeline",
    architecture="stable-diffusion-v1",
    kohya_name="sd_v1",
    modelscope="AI-ModelScope/stable-diffusion-v1-5",
    huggingface="stable-diffusion-v1-5/stable-diffusion-v1-5",
    download=2_130_000_000,
    resolution=512,
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
    guidance_scale=7.0,
    controlnets={
        "edges": HubModel(huggingface="lllyasviel/control_v11p_sd15_canny"),
        "depth": HubModel(huggingface="lllyasviel/control_v11f1p_sd15_depth"),
        "pose": HubModel(huggingface="lllyasviel/control_v11p_sd15_openpose"),
        "segmentation": HubModel(huggingface="lllyasviel/control_v11p_sd15_seg"),
    },
    ip_adapter=(
        HubModel("AI-ModelScope/IP-Adapter", "h94/IP-Adapter"),
        "models/ip-adapter-plus_sd15.safetensors",
        "models/image_encoder",
    ),
)
