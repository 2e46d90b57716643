"""Stable Diffusion 1.5: one CLIP text encoder, pictures of 512 pixels."""

from storyboard.models.families import module_names, sdxl
from storyboard.models.families.family import (
    Family,
    Lookalike,
    MemoryNeeds,
    SingleFile,
)

PIPELINE = "StableDiffusionPipeline"

FAMILY = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    pipeline=PIPELINE,
    image_to_image="StableDiffusionImg2ImgPipeline",
    configs={"model_index.json": {"_class_name": PIPELINE}},
    single_file=SingleFile(
        prefixes={
            "text_encoder": "cond_stage_model.transformer.",
            "unet": sdxl.ORIGINAL_UNET,
            "vae": sdxl.ORIGINAL_VAE,
        },
        first_layer=sdxl.FIRST_LAYER,
        left_out={"text_encoder": "text_model."},
    ),
    # its pipeline class and its UNet's are those of Stable Diffusion 1.5
    lookalikes=(
        Lookalike(
            "Stable Diffusion 2",
            configs={
                "model_index.json": {"_class_name": PIPELINE},
                "unet/config.json": {"cross_attention_dim": 1024},
            },
            prefix="cond_stage_model.model.",
        ),
    ),
    classes={
        "text_encoder": ("transformers", "CLIPTextModel"),
        "unet": sdxl.UNET,
        "vae": sdxl.VAE,
    },
    tokenizers={"text_encoder": sdxl.TOKENIZER},
    text=sdxl.TEXT,
    text_length=77,
    clip_layer=1,
    forward=("diffsynth.pipelines.stable_diffusion", "model_fn_stable_diffusion"),
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    module_names={"unet": module_names.UNET2D, "text_encoder": module_names.CLIP_TEXT},
    memory=MemoryNeeds(unet=1.8, text=0.4),
    comfyui=sdxl.CHECKPOINT_NODES,
    use="diffusers `StableDiffusionPipeline`, ComfyUI, A1111",
)
