"""Stable Diffusion XL: two CLIP text encoders, size and crop as further conditions."""

from dataclasses import replace

from storyboard.models.families import module_names
from storyboard.models.families.family import (
    ComfyNodes,
    Family,
    Lookalike,
    MemoryNeeds,
    SingleFile,
)

# by the module that defines each: DiffSynth's pool does not know diffusers' lazy modules
UNET = ("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel")
VAE = ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL")
TEXT = ("storyboard.models.text_clip", "ClipText")
TOKENIZER = ("transformers", "CLIPTokenizer")
# tensors of the layout that SD 1.5 and SDXL were published in
ORIGINAL_UNET = "model.diffusion_model."
ORIGINAL_VAE = "first_stage_model."
FIRST_LAYER = f"{ORIGINAL_UNET}input_blocks.0.0.weight"
CHECKPOINT_NOTE = "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。"
FOLDER_LOADER = ("DiffusersLoader", "model_path")

# of every family that ComfyUI loads as one checkpoint
CHECKPOINT_NODES = ComfyNodes(
    loaders={"1": ("CheckpointLoaderSimple", "ckpt_name")},
    model=("1", 0),
    clip=("1", 1),
    vae=("1", 2),
    text=("CLIPTextEncode", "clip", "text"),
    controlnet="ControlNetLoader",
    note=CHECKPOINT_NOTE,
    folder_loader=FOLDER_LOADER,
)

FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    image_to_image="StableDiffusionXLImg2ImgPipeline",
    configs={"model_index.json": {"_class_name": "StableDiffusionXLPipeline"}},
    single_file=SingleFile(
        prefixes={
            "text_encoder": "conditioner.embedders.0.transformer.",
            "text_encoder_2": "conditioner.embedders.1.model.",
            "unet": ORIGINAL_UNET,
            "vae": ORIGINAL_VAE,
        },
        first_layer=FIRST_LAYER,
    ),
    lookalikes=(Lookalike("an SDXL refiner", prefix="conditioner.embedders.0.model."),),
    classes={
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "unet": UNET,
        "vae": VAE,
    },
    tokenizers={"text_encoder": TOKENIZER, "text_encoder_2": TOKENIZER},
    text=TEXT,
    text_length=77,
    clip_layer=2,
    forward=("diffsynth.pipelines.stable_diffusion_xl", "model_fn_stable_diffusion_xl"),
    kohya_prefixes={
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_",
        "text_encoder_2": "lora_te2_",
    },
    module_names={
        "unet": module_names.UNET2D,
        "text_encoder": module_names.CLIP_TEXT,
        "text_encoder_2": module_names.CLIP_TEXT,
    },
    # kohya's prefixes and a second encoder; in one block of the UNet more than one transformer
    lora_keys=r"^lora_te[12]_|(^|\.)text_encoder_2\.|\d[._]transformer_blocks[._][1-9]",
    lora_versions="xl",
    memory=MemoryNeeds(unet=5.2, text=1.8),
    comfyui=replace(CHECKPOINT_NODES, empty_is_zero=True),
    use="diffusers `StableDiffusionXLPipeline`, ComfyUI, A1111",
)
