"""Kolors, SDXL and SD 1.5 in tiny: the real classes and layouts, random weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from storyboard.models import bases

HUB = {name: bases.get(name).modelscope for name in ("kolors", "sdxl", "sd15")}
MINI = bases.get("mini").folder
BETA_END = {"kolors": 0.014, "sdxl": 0.012, "sd15": 0.012}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "projection_dim": 32,
    "max_position_embeddings": 77,
}


def build(name: str, root: Path) -> Path:
    """Write the tiny ``name`` below ``root``, in the place its hub id says; returns the folder."""
    folder = root / HUB[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = {"kolors": _kolors, "sdxl": _sdxl, "sd15": _sd15}[name](root)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module) and "Text" in type(module).__name__:
                for parameter in module.parameters():
                    if parameter.ndim > 1:
                        parameter.data.mul_(
                            3
                        )  # louder than at birth: prompts shall make a difference
    pipe.save_pretrained(folder, variant="fp16")
    if name == "kolors":  # the real text encoder comes in three shards
        shutil.rmtree(folder / "text_encoder")
        pipe.text_encoder.save_pretrained(
            folder / "text_encoder", variant="fp16", max_shard_size="200kB"
        )
    else:
        for tokenizer in folder.glob("tokenizer*"):
            (tokenizer / "tokenizer.json").unlink()
            for file in CLIP_FILES:
                shutil.copy(root / "clip" / file, tokenizer)
        shutil.rmtree(root / "clip")
    return folder


def copied(base, target: Path):
    """``base`` in the folder ``target``, whose files may be spoilt."""
    shutil.copytree(base.folder, target)
    return replace(base, folder=target)


def edited(base, target: Path, file: str, changes: dict) -> Path:
    """A copy of the folder of ``base`` in which the JSON ``file`` has these values."""
    path = copied(base, target).folder / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return target


def lora(base, path: Path) -> None:
    """Write a small LoRA of ``base``, not zero, in kohya's form."""
    from storyboard.lora import file as lora
    from storyboard.models import loading as models

    modules = [
        (name, layer)
        for name, layer in models.skeleton(base, "unet").named_modules()
        if name.endswith("attn2.to_q")
    ]
    state = {
        f"{name}.lora_{side}.weight": torch.full(shape, 0.01)
        for name, layer in modules
        for side, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2)))
    }
    lora.save(path, state, 2.0, {"ss_base_model_version": base.kohya_name})


TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def whole_lora(base, path: Path, alphas=(3.0,), ranks=(4,), facts: bool = True) -> None:
    """Write a LoRA of UNet and text encoders in kohya's form; alphas and ranks alternate."""
    from storyboard.lora import file as lora
    from storyboard.lora.names import kohya_name, module_path
    from storyboard.models import loading as models

    tensors, generator = {}, torch.Generator().manual_seed(1)
    components = [component for component in base.components if component != "vae"]
    layers = [
        (kohya_name(module_path(component, name), base.family), layer)
        for component in components
        for name, layer in models.skeleton(base, component).named_modules()
        if name.endswith(("attn2.to_q", "conv1") if component == "unet" else TEXT_LAYERS)
    ]
    for index, (name, layer) in enumerate(layers):
        rank, (outputs, *inputs) = ranks[index % len(ranks)], layer.weight.shape
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *inputs, generator=generator) * 0.3
        tensors[f"{name}.lora_up.weight"] = (
            torch.randn(outputs, rank, *[1] * (len(inputs) - 1), generator=generator) * 0.3
        )
        tensors[f"{name}.alpha"] = torch.tensor(alphas[index % len(alphas)])
    path.write_bytes(
        lora.serialised(tensors, {"ss_base_model_version": base.kohya_name} if facts else {})
    )


CLIP_FILES = ("vocab.json", "merges.txt")


def clip_tokenizer(folder: Path):
    """CLIP's tokenizer with bytes for a vocabulary and no merges."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True)
    signs = list(bytes_to_unicode().values())
    words = [*signs, *(sign + "</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token="<|endoftext|>")


def _vae(scaling_factor: float):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=scaling_factor,
        sample_size=64,
    )


def _sdxl_unet(**changes: object):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        **changes,
    )


def _scheduler(name: str):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        num_train_timesteps=bases.get(name).num_train_timesteps,
        beta_start=0.00085,
        beta_end=BETA_END[name],
        beta_schedule="scaled_linear",
        steps_offset=1,
    )


def _kolors(root: Path):
    from diffusers import KolorsPipeline
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    config = json.loads((MINI / "text_encoder" / "config.json").read_text()) | {
        "num_layers": 2,
        "hidden_size": 64,
        "ffn_hidden_size": 96,
        "kv_channels": 16,
        "num_attention_heads": 4,
    }
    text = ChatGLMModel(
        ChatGLMConfig(**{key: value for key, value in config.items() if not key.startswith("_")}),
        empty_init=False,
    )
    for name, parameter in text.named_parameters():
        if "layernorm" in name:
            parameter.data.fill_(1.0)  # its RMSNorm starts from uninitialised memory
    return KolorsPipeline(
        vae=_vae(0.13025),
        text_encoder=text,
        tokenizer=ChatGLMTokenizer.from_pretrained(MINI / "tokenizer"),
        scheduler=_scheduler("kolors"),
        unet=_sdxl_unet(
            cross_attention_dim=64,
            encoder_hid_dim=64,
            encoder_hid_dim_type="text_proj",
            projection_class_embeddings_input_dim=64 + 6 * 8,
        ),
    )


def _sdxl(root: Path):
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer(root / "clip")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **CLIP,
    )
    large = CLIPTextConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        hidden_act="gelu",
        **CLIP,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(large),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=_scheduler("sdxl"),
        unet=_sdxl_unet(cross_attention_dim=64, projection_class_embeddings_input_dim=32 + 6 * 8),
        add_watermarker=False,
    )


def _sd15(root: Path):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer(root / "clip")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    return StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.bos_token_id,
                **CLIP,
            )
        ),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler("sd15"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
