"""Stable Diffusion 1.5: one CLIP text encoder, pictures of 512 pixels."""

from storyboard.models.families import sdxl
from storyboard.models.families.family import ComfyNodes, Family, MemoryNeeds

FAMILY = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    pipeline="StableDiffusionPipeline",
    image_to_image="StableDiffusionImg2ImgPipeline",
    configs={"model_index.json": {"_class_name": "StableDiffusionPipeline"}},
    single_file={"text_encoder": "cond_stage_model.transformer."},
    classes={
        "text_encoder": ("transformers", "CLIPTextModel"),
        "unet": sdxl.UNET,
        "vae": sdxl.VAE,
    },
    tokenizers={"text_encoder": sdxl.TOKENIZER},
    text="clip",
    clip_layer=1,
    forward=("diffsynth.pipelines.stable_diffusion", "model_fn_stable_diffusion"),
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    memory=MemoryNeeds(unet=1.8, text=0.4),
    comfyui=ComfyNodes(
        loaders={"1": ("CheckpointLoaderSimple", "ckpt_name")},
        model=("1", 0),
        clip=("1", 1),
        vae=("1", 2),
        text=("CLIPTextEncode", "clip", "text"),
        controlnet="ControlNetLoader",
        note=sdxl.CHECKPOINT_NOTE,
        folder_loader=sdxl.FOLDER_LOADER,
    ),
    use="diffusers `StableDiffusionPipeline`, ComfyUI, A1111",
)
