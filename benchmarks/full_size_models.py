"""Kolors, SDXL and SD 1.5 at full size with random weights, in the layout that their hubs hold.

The configs are the published ones (``config.json`` of Kwai-Kolors/Kolors-diffusers,
stabilityai/stable-diffusion-xl-base-1.0 and stable-diffusion-v1-5/stable-diffusion-v1-5);
``tests/test_full_size.py`` compares their tensor names and shapes with the hashes that
DiffSynth-Studio's registries hold of the real files. Tokenizers are those of the tests, of few
words.
"""

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

_SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
UNETS = {
    "kolors": _SDXL_UNET
    | {
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "projection_class_embeddings_input_dim": 5632,
    },
    "sdxl": _SDXL_UNET | {"projection_class_embeddings_input_dim": 2816},
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
}
SCALING = {"kolors": 0.13025, "sdxl": 0.13025, "sd15": 0.18215}
CHATGLM = {
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "seq_length": 32768,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "apply_residual_connection_post_layernorm": False,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "bias_dropout_fusion": True,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "attention_softmax_in_fp32": True,
    "apply_query_key_layer_scaling": True,
    "fp32_residual_connection": False,
    "original_rope": True,
}
_CLIP = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
CLIP_L = _CLIP | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_G = _CLIP | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


def unet(name: str) -> torch.nn.Module:
    """The UNet of the base ``name``, on torch's default device and in its default type."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNETS[name])


def vae(name: str) -> torch.nn.Module:
    """The VAE of the base ``name``, as ``unet``."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE, scaling_factor=SCALING[name])


def chatglm() -> torch.nn.Module:
    """Kolors' text encoder, as ``unet``."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    model = ChatGLMModel(ChatGLMConfig(**CHATGLM), empty_init=False)
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            parameter.data.fill_(1.0)  # its RMSNorm starts from uninitialised memory
    return model


def clip(config: dict, kind: str) -> torch.nn.Module:
    """A text encoder of transformers' class ``kind``, as ``unet``."""
    import transformers

    return getattr(transformers, kind)(transformers.CLIPTextConfig(**config))


@contextlib.contextmanager
def made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules are made on ``device`` in ``dtype``, from seed 0."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def write(name: str, root: Path, device: str = "cpu", components: tuple[str, ...] = ()) -> Path:
    """Write the base ``name`` in fp16 below ``root``, in the folder of its id at the hubs.

    Args:
        components: Only these of unet, vae, text_encoder, text_encoder_2, the others in tiny;
            () writes all.
    """
    from tests import tiny

    makers = {"unet": partial(unet, name), "vae": partial(vae, name)}
    if name == "kolors":
        makers["text_encoder"] = chatglm
    else:
        makers["text_encoder"] = partial(clip, CLIP_L, "CLIPTextModel")
    if name == "sdxl":
        makers["text_encoder_2"] = partial(clip, CLIP_G, "CLIPTextModelWithProjection")
    # stopped halfway, it must not leave a tiny component that passes for a large one
    unfinished = root.with_name(f".{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder = tiny.build(name, unfinished)  # tokenizers, scheduler, model_index.json

    for component, make in makers.items():
        if components and component not in components:
            continue
        shutil.rmtree(folder / component)
        with made_on(device, torch.float16):
            model = make()
        model.save_pretrained(folder / component, variant="fp16", max_shard_size="5GB")
        del model
        if device == "cuda":
            torch.cuda.empty_cache()
    target = root / folder.relative_to(unfinished)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    return folder.rename(target)
