"""Kolors: SDXL's UNet in layout, ChatGLM3 for Chinese and English prompts."""

from storyboard.models.families import module_names, sdxl
from storyboard.models.families.family import (
    ComfyNodes,
    Family,
    Lookalike,
    MemoryNeeds,
    NodeType,
)

ORIGINAL = "Kwai-Kolors/Kolors"
PACK = {"cnr_id": "comfyui-kolors-mz", "aux_id": "MinusZoneAI/ComfyUI-Kolors-MZ"}
# INPUT_TYPES and RETURN_TYPES of ComfyUI-Kolors-MZ's __init__.py
PACK_NODES = {
    "MZ_KolorsUNETLoaderV2": NodeType({"unet_name": "COMBO"}, ("MODEL",), PACK),
    "MZ_KolorsControlNetLoader": NodeType({"control_net_name": "COMBO"}, ("CONTROL_NET",), PACK),
    "MZ_ChatGLM3Loader": NodeType({"chatglm3_checkpoint": "COMBO"}, ("CHATGLM3MODEL",), PACK),
    "MZ_ChatGLM3_V2": NodeType(
        {"chatglm3_model": "CHATGLM3MODEL", "text": "STRING"}, ("CONDITIONING",), PACK
    ),
}

FAMILY = Family(
    name="kolors",
    title="Kolors",
    pipeline="KolorsPipeline",
    # diffusers' KolorsImg2ImgPipeline drops pooled embeddings that it is given; SDXL's takes them
    # and draws the same (parity is tested)
    image_to_image="StableDiffusionXLImg2ImgPipeline",
    configs={"model_index.json": {"_class_name": "KolorsPipeline"}},
    lookalikes=(
        Lookalike(
            "Kolors in its original layout, whose text encoder can run code when it is read",
            configs={
                "model_index.json": {"_class_name": (None, "StableDiffusionXLPipeline")},
                "text_encoder/config.json": {"model_type": "chatglm"},
            },
            hub_id=ORIGINAL,
            advice=(
                f'set base="kolors", which fetches {ORIGINAL}-diffusers, '
                "or give a folder that holds that"
            ),
        ),
    ),
    classes={
        "text_encoder": ("diffusers.pipelines.kolors.text_encoder", "ChatGLMModel"),
        "unet": sdxl.UNET,
        "vae": sdxl.VAE,
    },
    tokenizers={"text_encoder": ("diffusers.pipelines.kolors.tokenizer", "ChatGLMTokenizer")},
    text=("storyboard.models.text_chatglm", "ChatGLMText"),
    text_length=256,
    chinese=True,
    forward=sdxl.FAMILY.forward,
    kohya_prefixes={"unet": "lora_unet_", "text_encoder": "lora_te_"},
    module_names={"unet": module_names.UNET2D},
    memory=MemoryNeeds(unet=5.2, text=12.0),
    comfyui=ComfyNodes(
        loaders={
            "1": ("MZ_KolorsUNETLoaderV2", "unet_name"),
            "3": ("MZ_ChatGLM3Loader", "chatglm3_checkpoint"),
            "4": ("VAELoader", "vae_name"),
        },
        model=("1", 0),
        clip=("3", 0),
        vae=("4", 0),
        text=("MZ_ChatGLM3_V2", "chatglm3_model", "text"),
        controlnet="MZ_KolorsControlNetLoader",
        files={
            "chatglm3_checkpoint": "chatglm3-fp16.safetensors",
            "vae_name": "sdxl_vae.safetensors",
        },
        note=(
            "Needs the node pack ComfyUI-Kolors-MZ "
            "(https://github.com/MinusZoneAI/ComfyUI-Kolors-MZ). Kolors' UNet goes into "
            "models/unet, ChatGLM3 into models/LLM, SDXL's VAE into models/vae. The pack needs "
            "transformers 4: with 5 its text encoder ends in an error "
            '(pip install "transformers<5"). '
            "需要安装 ComfyUI-Kolors-MZ 节点；该节点需要 transformers 4，在 5 上会报错。"
        ),
        weighs_words=False,
        predicts_v=False,
        pack="ComfyUI-Kolors-MZ",
        pack_nodes=PACK_NODES,
        chooses_in_braces=True,
    ),
    use="diffusers `KolorsPipeline`",
)
