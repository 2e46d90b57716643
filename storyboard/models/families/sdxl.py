"""Stable Diffusion XL: two CLIP text encoders, size and crop as further conditions."""

from storyboard.models.families.family import ComfyNodes, Family, MemoryNeeds

# by the module that defines each: DiffSynth's pool does not know diffusers' lazy modules
UNET = ("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel")
VAE = ("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL")
TOKENIZER = ("transformers", "CLIPTokenizer")
CHECKPOINT_NOTE = "The checkpoint goes into models/checkpoints. 模型放入 models/checkpoints。"
FOLDER_LOADER = ("DiffusersLoader", "model_path")

FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    image_to_image="StableDiffusionXLImg2ImgPipeline",
    configs={"model_index.json": {"_class_name": "StableDiffusionXLPipeline"}},
    single_file={
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    classes={
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "unet": UNET,
        "vae": VAE,
    },
    tokenizers={"text_encoder": TOKENIZER, "text_encoder_2": TOKENIZER},
    text="clip",
    clip_layer=2,
    forward=("diffsynth.pipelines.stable_diffusion_xl", "model_fn_stable_diffusion_xl"),
    kohya_prefixes={
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_",
        "text_encoder_2": "lora_te2_",
    },
    memory=MemoryNeeds(unet=5.2, text=1.8),
    comfyui=ComfyNodes(
        loaders={"1": ("CheckpointLoaderSimple", "ckpt_name")},
        model=("1", 0),
        clip=("1", 1),
        vae=("1", 2),
        text=("CLIPTextEncode", "clip", "text"),
        controlnet="ControlNetLoader",
        note=CHECKPOINT_NOTE,
        empty_is_zero=True,
        folder_loader=FOLDER_LOADER,
    ),
    use="diffusers `StableDiffusionXLPipeline`, ComfyUI, A1111",
)
