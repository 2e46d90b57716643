"""The embedded default: a Kolors in small that lives in the repository and runs on two CPU cores."""

from pathlib import Path

from .base import Base

BASE = Base(
    name="mini",
    title="mini (a small Kolors, in this repository)",
    pipeline="KolorsPipeline",
    architecture="kolors-mini",
    kohya_name="mini",
    folder=Path(__file__).resolve().parents[2] / "models" / "mini",
    resolution=256,
    resolution_step=32,
    text_length=256,
    num_train_timesteps=1100,
    beta_start=0.00085,
    beta_end=0.014,
    # the half of the UNet that draws: the other half needs no backward pass then
    lora_targets=(
        r"(mid_block|up_blocks)\..*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|conv1|conv2|time_emb_proj)",
    ),
    learning_rate=4.5e-3,
    train_steps=600,
    train_batch_size=6,
    num_inference_steps=16,
    guidance_scale=2.0,
    high_noise_weight=0.3,
    controlnets={"edges": str(Path(__file__).resolve().parents[2] / "models" / "mini-controlnet")},
)
