"""Repositories as hubs have them, in small: published file names, config keys and tensor names, random weights."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from storyboard.models import bases
from tests import published, tiny

EXTRAS = (
    "model.onnx",
    "openvino_model.bin",
    "openvino_model.xml",
    "diffusion_flax_model.msgpack",
    "pytorch_model.bin",
)

VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 64,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VAE_XL = VAE | {
    "_diffusers_version": "0.20.0.dev0",
    "_name_or_path": "../sdxl-vae/",
    "force_upcast": True,
    "scaling_factor": 0.13025,
}
UNET_15 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 4,
    "block_out_channels": [32, 64, 64, 64],
    "center_input_sample": False,
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_XL = UNET_15 | {
    "_diffusers_version": "0.19.0.dev0",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 4, 4],
    "block_out_channels": [32, 64, 64],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 64,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 3],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
UNET_KOLORS = UNET_XL | {
    "_diffusers_version": "0.27.0.dev0",
    "encoder_hid_dim": 64,
    "encoder_hid_dim_type": "text_proj",
    "projection_class_embeddings_input_dim": 64 + 6 * 8,
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "pad_token_id": 1,
    "projection_dim": 32,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 514,
}
CLIP_G = CLIP | {"architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu"}
VISION = {
    "_name_or_path": "./image_encoder",
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "image_size": 32,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "projection_dim": 24,
    "torch_dtype": "float16",
    "transformers_version": "4.28.0.dev0",
}
CHATGLM = {
    "_name_or_path": "THUDM/chatglm3-6b-base",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["ChatGLMModel"],
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "bias_dropout_fusion": True,
    "classifier_dropout": None,
    "eos_token_id": 2,
    "ffn_hidden_size": 96,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "model_type": "chatglm",
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "pad_token_id": 0,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "prefix_projection": False,
    "quantization_bit": 0,
    "rmsnorm": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.42.4",
    "use_cache": True,
}
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
END = {
    "content": "<|endoftext|>",
    "lstrip": False,
    "normalized": True,
    "rstrip": False,
    "single_word": False,
}
START = END | {"content": "<|startoftext|>"}
INDEX = {
    "kolors": {
        "_class_name": "KolorsPipeline",
        "_diffusers_version": "0.30.0.dev0",
        "force_zeros_for_empty_prompt": False,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["kolors", "ChatGLMModel"],
        "tokenizer": ["kolors", "ChatGLMTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "sdxl": {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": None,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "sd15": {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
}
UNETS = {"kolors": UNET_KOLORS, "sdxl": UNET_XL, "sd15": UNET_15}
CONTROLNETS = {  # config.json of Kwai-Kolors, of diffusers and of lllyasviel, beside the UNet's
    "kolors": {
        "_class_name": "ControlNetModel_JQ",
        "_diffusers_version": "0.21.0.dev0",
    },
    "sdxl": {"_class_name": "ControlNetModel", "_diffusers_version": "0.20.0.dev0"},
    "sd15": {"_class_name": "ControlNetModel", "_diffusers_version": "0.16.0.dev0"},
}
NOT_CONTROL = (
    "_name_or_path",
    "center_input_sample",
    "class_embeddings_concat",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_norm",
    "dual_cross_attention",
    "mid_block_only_cross_attention",
    "mid_block_type",
    "out_channels",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "sample_size",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "time_embedding_type",
    "timestep_post_act",
    "up_block_types",
)


def build(name: str, root: Path) -> Path:
    """Write the repository of the base ``name`` below ``root``, where its id says; returns the folder."""
    folder = root / bases.get(name).modelscope
    _json(folder / "model_index.json", INDEX[name])
    steps, end = (1100, 0.014) if name == "kolors" else (1000, 0.012)
    kind = INDEX[name]["scheduler"][1]
    schedule = SCHEDULE | {"_class_name": kind, "num_train_timesteps": steps, "beta_end": end}
    _json(folder / "scheduler" / "scheduler_config.json", schedule)
    (folder / "README.md").write_text("A model.")

    _json(folder / "unet" / "config.json", UNETS[name])
    save(
        folder / "unet" / "diffusion_pytorch_model.fp16.safetensors",
        weights(published.unet(UNETS[name])),
    )
    vae, old = (VAE, True) if name == "sd15" else (VAE_XL, False)
    _json(folder / "vae" / "config.json", vae)
    tensors = weights(published.vae(vae, old))
    save(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors", tensors)
    whole = {name: tensor.float() for name, tensor in tensors.items()}
    save(folder / "vae" / "diffusion_pytorch_model.safetensors", whole)
    {"kolors": _kolors_text, "sdxl": _sdxl_text, "sd15": _sd15_text}[name](folder)

    if name != "kolors":
        for component in ("unet", "vae", "text_encoder"):
            for extra in EXTRAS:
                (folder / component / extra).write_bytes(b"not to be read")
        for part in ("safety_checker", "feature_extractor"):
            _json(folder / part / "config.json", {})
        (folder / "v1-5-pruned.safetensors").write_bytes(b"not to be read")
    return folder


def controlnet(name: str, folder: Path) -> None:
    """Write a ControlNet for edges on the base ``name`` as its authors published one."""
    config = {
        key: value for key, value in UNETS[name].items() if key not in NOT_CONTROL
    } | CONTROLNETS[name]
    config |= {
        "conditioning_embedding_out_channels": [8, 8, 16, 16],
        "controlnet_conditioning_channel_order": "rgb",
    }
    if name != "sd15":
        config |= {"conditioning_channels": 3, "global_pool_conditions": False}
    _json(folder / "config.json", config)
    save(folder / "diffusion_pytorch_model.safetensors", weights(published.controlnet(config)))


def ip_adapter(name: str, root: Path) -> None:
    """Write the IP-Adapter plus of the base ``name`` with its image encoder, where the base says."""
    model, file, encoder = bases.get(name).ip_adapter
    folder = root / model.ids[0]
    _json(folder / encoder / "config.json", VISION)
    save(folder / encoder / "model.safetensors", weights(published.clip_vision(VISION)))
    unet, context = published.unet(UNETS[name]), UNETS[name]["cross_attention_dim"]
    save(
        folder / file, weights(published.ip_adapter_plus(unet, VISION["hidden_size"], 64, context))
    )


def clip(folder: Path, open_clip: bool = False) -> dict[str, torch.Tensor]:
    """Write a whole CLIP with ``config.json`` and its processor, its tensors by OpenCLIP's names if so.

    Returns:
        The tensors by transformers' names.
    """
    from transformers import CLIPImageProcessor, CLIPProcessor

    text, vision = CLIP | {"projection_dim": 24}, VISION
    tensors = weights(published.clip(text, vision))
    tensors |= {
        name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()
    }
    _json(
        folder / "config.json",
        {
            "architectures": ["CLIPModel"],
            "logit_scale_init_value": 2.6592,
            "model_type": "clip",
            "projection_dim": 24,
            "text_config": text,
            "vision_config": vision,
        },
    )
    save(folder / "model.safetensors", published.open_clip(tensors) if open_clip else tensors)
    tokenizer = tiny.clip_tokenizer(folder / "vocabulary")
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return tensors


def weights(shapes: published.Shapes) -> dict[str, torch.Tensor]:
    """Random tensors of these names in fp16: scales are 1, shifts 0, all else keeps the variance of its input."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            found[name] = torch.arange(shape[1])[None]
        elif name.endswith("inv_freq"):
            found[name] = (1 / 10000 ** (torch.arange(shape[0]) / shape[0])).half()
        elif len(shape) == 1:
            found[name] = torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
        else:
            inside = math.prod(shape[1:])
            found[name] = (torch.randn(shape, generator=generator) / math.sqrt(inside)).half()
    return found


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )


def _kolors_text(folder: Path) -> None:
    config = json.loads((tiny.MINI / "text_encoder" / "config.json").read_text())
    sizes = {key: config[key] for key in ("padded_vocab_size", "seq_length")}
    config = CHATGLM | sizes | {"vocab_size": sizes["padded_vocab_size"]}
    _json(folder / "text_encoder" / "config.json", config)
    tensors = weights(published.chatglm(config))

    names, weight_map = list(tensors), {}  # three shards
    for place in range(3):
        file = f"model.fp16-{place + 1:05}-of-00003.safetensors"
        part = names[place * len(names) // 3 : (place + 1) * len(names) // 3]
        save(folder / "text_encoder" / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _json(folder / "text_encoder" / "model.safetensors.index.fp16.json", index)

    _json(
        folder / "tokenizer" / "tokenizer_config.json",
        {
            "name_or_path": "THUDM/chatglm3-6b-base",
            "remove_space": False,
            "do_lower_case": False,
            "tokenizer_class": "ChatGLMTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
        },
    )
    for file in ("tokenizer.model", "vocab.txt"):  # the same, twice
        shutil.copy(tiny.MINI / "tokenizer" / "tokenizer.model", folder / "tokenizer" / file)


def _sdxl_text(folder: Path) -> None:
    later = {"transformers_version": "4.32.0.dev0", "torch_dtype": "float16"}
    _json(folder / "text_encoder" / "config.json", CLIP | later)
    save(folder / "text_encoder" / "model.fp16.safetensors", weights(published.clip_text(CLIP)))
    _json(folder / "text_encoder_2" / "config.json", CLIP_G)
    save(
        folder / "text_encoder_2" / "model.fp16.safetensors",
        weights(published.clip_text(CLIP_G, projection=True)),
    )
    _clip_tokenizer(folder / "tokenizer", "<|endoftext|>")
    _clip_tokenizer(folder / "tokenizer_2", "!")


def _sd15_text(folder: Path) -> None:
    _json(folder / "text_encoder" / "config.json", CLIP)
    save(
        folder / "text_encoder" / "model.fp16.safetensors",
        weights(published.clip_text(CLIP, position_ids=True)),
    )
    _clip_tokenizer(folder / "tokenizer", "<|endoftext|>")


def _clip_tokenizer(folder: Path, pad: str) -> None:
    tiny.clip_tokenizer(folder)
    typed = lambda token: {"__type": "AddedToken"} | token
    _json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": typed(START),
            "do_lower_case": True,
            "eos_token": typed(END),
            "errors": "replace",
            "model_max_length": 77,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": pad,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": typed(END),
        },
    )
    tokens = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    _json(folder / "special_tokens_map.json", tokens)


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
