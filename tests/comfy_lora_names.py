"""The names that ComfyUI's LoRA loader knows: comfy/lora.py, comfy/utils.py."""

RESNET = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
ATTENTION = ("norm", "proj_in", "proj_out")
TRANSFORMER = (
    *("norm1", "norm2", "norm3"),
    *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    *("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    *("ff.net.0.proj", "ff.net.2"),
)
TEXT = ("mlp_fc1", "mlp_fc2", *(f"self_attn_{each}_proj" for each in ("k", "q", "v", "out")))


def unet_names(config):
    """Every UNet key: model_lora_keys_unet over unet_to_diffusers."""
    kinds, layers = config["down_block_types"], config["layers_per_block"]
    depths = config["transformer_layers_per_block"]
    depths = [depths] * len(kinds) if isinstance(depths, int) else depths

    names = ["conv_in", "conv_norm_out", "conv_out"]
    for part in ("time_embedding", "add_embedding", "class_embedding"):
        names += [f"{part}.linear_1", f"{part}.linear_2"]
    for number, (kind, transformers) in enumerate(zip(kinds, depths, strict=True)):
        depth = transformers if kind.startswith("CrossAttn") else None
        names += _block(f"down_blocks.{number}", "down", layers, depth)
        names += _block(f"up_blocks.{len(kinds) - 1 - number}", "up", layers + 1, depth)
    for layer in (0, 1):
        names += [f"mid_block.resnets.{layer}.{part}" for part in RESNET]
    names += _attentions("mid_block.attentions.0", depths[-1])
    return {"lora_unet_" + name.replace(".", "_") for name in names}


def text_names(prefixes):
    """Every text encoder's key: model_lora_keys_clip with LORA_CLIP_MAP."""
    return {
        f"{prefix}text_model_encoder_layers_{layer}_{part}"
        for prefix in prefixes
        for layer in range(32)
        for part in TEXT
    }


def _block(block, side, layers, depth):
    """Names in one block; ``depth`` is None where it has no attention."""
    names = [f"{block}.{side}samplers.0.conv"]
    for layer in range(layers):
        names += [f"{block}.resnets.{layer}.{part}" for part in RESNET]
        if depth is not None:
            names += _attentions(f"{block}.attentions.{layer}", depth)
    return names


def _attentions(parent, depth):
    names = [f"{parent}.{part}" for part in ATTENTION]
    for number in range(depth):
        names += [f"{parent}.transformer_blocks.{number}.{part}" for part in TRANSFORMER]
    return names
