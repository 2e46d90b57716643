"""Kolors: SDXL's UNet in layout, ChatGLM3 for Chinese and English prompts, a schedule of 1,100 steps."""

from ..download import HubModel
from .base import Base

BASE = Base(
    name="kolors",
    title="Kolors (快手可图)",
    pipeline="KolorsPipeline",
    architecture="kolors",
    kohya_name="kolors",
    modelscope="Kwai-Kolors/Kolors-diffusers",
    huggingface="Kwai-Kolors/Kolors-diffusers",
    download=17_820_000_000,
    resolution=1024,
    resolution_step=64,
    text_length=256,
    num_train_timesteps=1100,
    beta_start=0.00085,
    beta_end=0.014,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    learning_rate=1e-4,
    train_steps=800,
    train_batch_size=4,
    num_inference_steps=25,
    guidance_scale=5.0,
    controlnets={
        "edges": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Canny"),
        "depth": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Depth"),
        "pose": HubModel(huggingface="Kwai-Kolors/Kolors-ControlNet-Pose"),
    },
    ip_adapter=(  # its safetensors are at a revision of Hugging Face alone
        HubModel(huggingface="Kwai-Kolors/Kolors-IP-Adapter-Plus", revision="refs/pr/4"),
        "ip_adapter_plus_general.safetensors",
        "image_encoder",
    ),
)
