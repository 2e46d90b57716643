"""Repositories as hubs have them, in small: names, config keys and tensors; random weights."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from storyboard.models import bases
from tests import published, published_encoders, tiny
from tests.published_configs import (
    CHATGLM,
    CLIP,
    CLIP_G,
    CONTROLNETS,
    END,
    INDEX,
    NOT_CONTROL,
    SCHEDULE,
    START,
    UNETS,
    VAE,
    VAE_XL,
    VISION,
)

EXTRAS = (
    "model.onnx",
    "openvino_model.bin",
    "openvino_model.xml",
    "diffusion_flax_model.msgpack",
    "pytorch_model.bin",
)


def build(name: str, root: Path) -> Path:
    """Write the repository of the base ``name`` below ``root`` by its id; returns the folder."""
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
    """Write the IP-Adapter plus of the base ``name`` with its image encoder, by its id."""
    model, file, encoder = bases.get(name).ip_adapter
    folder = root / model.ids[0]
    _json(folder / encoder / "config.json", VISION)
    save(folder / encoder / "model.safetensors", weights(published_encoders.clip_vision(VISION)))
    unet, context = published.unet(UNETS[name]), UNETS[name]["cross_attention_dim"]
    save(
        folder / file, weights(published.ip_adapter_plus(unet, VISION["hidden_size"], 64, context))
    )


def clip(folder: Path, open_clip: bool = False) -> dict[str, torch.Tensor]:
    """Write a whole CLIP with ``config.json`` and its processor.

    Args:
        open_clip: Whether its tensors have OpenCLIP's names.

    Returns:
        The tensors by transformers' names.
    """
    from transformers import CLIPImageProcessor, CLIPProcessor

    text, vision = CLIP | {"projection_dim": 24}, VISION
    tensors = weights(published_encoders.clip(text, vision))
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
    save(
        folder / "model.safetensors",
        published_encoders.open_clip(tensors) if open_clip else tensors,
    )
    tokenizer = tiny.clip_tokenizer(folder / "vocabulary")
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return tensors


def weights(shapes: published.Shapes) -> dict[str, torch.Tensor]:
    """Random tensors of these names in fp16.

    Scales are 1, shifts 0, all else keeps the variance of its input.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(shape[1])[None]
        elif name.endswith("inv_freq"):
            tensors[name] = (1 / 10000 ** (torch.arange(shape[0]) / shape[0])).half()
        elif len(shape) == 1:
            tensors[name] = torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
        else:
            inside = math.prod(shape[1:])
            tensors[name] = (torch.randn(shape, generator=generator) / math.sqrt(inside)).half()
    return tensors


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
    tensors = weights(published_encoders.chatglm(config))

    names, weight_map = list(tensors), {}  # three shards
    for index in range(3):
        file = f"model.fp16-{index + 1:05}-of-00003.safetensors"
        part = names[index * len(names) // 3 : (index + 1) * len(names) // 3]
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
    save(
        folder / "text_encoder" / "model.fp16.safetensors",
        weights(published_encoders.clip_text(CLIP)),
    )
    _json(folder / "text_encoder_2" / "config.json", CLIP_G)
    save(
        folder / "text_encoder_2" / "model.fp16.safetensors",
        weights(published_encoders.clip_text(CLIP_G, projection=True)),
    )
    _clip_tokenizer(folder / "tokenizer", "<|endoftext|>")
    _clip_tokenizer(folder / "tokenizer_2", "!")


def _sd15_text(folder: Path) -> None:
    _json(folder / "text_encoder" / "config.json", CLIP)
    save(
        folder / "text_encoder" / "model.fp16.safetensors",
        weights(published_encoders.clip_text(CLIP, position_ids=True)),
    )
    _clip_tokenizer(folder / "tokenizer", "<|endoftext|>")


def _clip_tokenizer(folder: Path, pad: str) -> None:
    tiny.clip_tokenizer(folder)
    start, end = ({"__type": "AddedToken"} | token for token in (START, END))
    _json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": start,
            "do_lower_case": True,
            "eos_token": end,
            "errors": "replace",
            "model_max_length": 77,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": pad,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": end,
        },
    )
    tokens = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    _json(folder / "special_tokens_map.json", tokens)


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
