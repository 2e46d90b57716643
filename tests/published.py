"""Names and shapes of tensors in published repositories, by their layouts' rules, without the classes that read them.

At full size they have the MD5 of the real files (``test_real_layouts.py``); in small they are what tests lay out.
"""

import itertools

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, inside: int, outside: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outside, inside)} | ({f"{name}.bias": (outside,)} if bias else {})


def conv(name: str, inside: int, outside: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (outside, inside, kernel, kernel), f"{name}.bias": (outside,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resnet(name: str, inside: int, outside: int, time: int | None = None) -> Shapes:
    found = norm(f"{name}.norm1", inside) | conv(f"{name}.conv1", inside, outside)
    found |= norm(f"{name}.norm2", outside) | conv(f"{name}.conv2", outside, outside)
    if time:
        found |= linear(f"{name}.time_emb_proj", time, outside)
    if inside != outside:
        found |= conv(f"{name}.conv_shortcut", inside, outside, 1)
    return found


def transformer(name: str, width: int, context: int, depth: int, is_linear: bool) -> Shapes:
    """A Transformer2DModel of ``depth`` blocks; attention has biases at its output alone."""
    project = linear if is_linear else lambda name, inside, outside: conv(name, inside, outside, 1)
    found = norm(f"{name}.norm", width)
    found |= project(f"{name}.proj_in", width, width) | project(f"{name}.proj_out", width, width)
    for place in range(depth):
        block = f"{name}.transformer_blocks.{place}"
        for attention, source in (("attn1", width), ("attn2", context)):
            found |= linear(f"{block}.{attention}.to_q", width, width, bias=False)
            found |= linear(f"{block}.{attention}.to_k", source, width, bias=False)
            found |= linear(f"{block}.{attention}.to_v", source, width, bias=False)
            found |= linear(f"{block}.{attention}.to_out.0", width, width)
        for number in (1, 2, 3):
            found |= norm(f"{block}.norm{number}", width)
        found |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(
            f"{block}.ff.net.2", 4 * width, width
        )
    return found


def _encoder_half(config: dict) -> tuple[Shapes, list[int], list[int]]:
    """What UNet and ControlNet share; widths of the skip connections; blocks of transformers at each level."""
    widths, context = config["block_out_channels"], config["cross_attention_dim"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = depths if isinstance(depths, list) else [depths] * len(widths)
    time = 4 * widths[0]
    flat = config.get("use_linear_projection", False)

    found = conv("conv_in", config["in_channels"], widths[0])
    found |= linear("time_embedding.linear_1", widths[0], time) | linear(
        "time_embedding.linear_2", time, time
    )
    if config.get("encoder_hid_dim"):
        found |= linear("encoder_hid_proj", config["encoder_hid_dim"], context)
    if config.get("addition_embed_type") == "text_time":
        found |= linear(
            "add_embedding.linear_1", config["projection_class_embeddings_input_dim"], time
        )
        found |= linear("add_embedding.linear_2", time, time)

    skips, before = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        block = f"down_blocks.{level}"
        for layer in range(config["layers_per_block"]):
            found |= resnet(f"{block}.resnets.{layer}", before, width, time)
            if config["down_block_types"][level] == "CrossAttnDownBlock2D":
                found |= transformer(
                    f"{block}.attentions.{layer}", width, context, depths[level], flat
                )
            before = width
            skips.append(width)
        if level < len(widths) - 1:
            found |= conv(f"{block}.downsamplers.0.conv", width, width)
            skips.append(width)

    found |= resnet("mid_block.resnets.0", before, before, time) | resnet(
        "mid_block.resnets.1", before, before, time
    )
    found |= transformer("mid_block.attentions.0", before, context, depths[-1], flat)
    return found, skips, depths


def unet(config: dict) -> Shapes:
    """A UNet2DConditionModel of ``config.json``."""
    found, skips, depths = _encoder_half(config)
    widths, time = config["block_out_channels"], 4 * config["block_out_channels"][0]
    context, flat = config["cross_attention_dim"], config.get("use_linear_projection", False)
    before = widths[-1]
    for level, width in enumerate(reversed(widths)):
        block = f"up_blocks.{level}"
        for layer in range(config["layers_per_block"] + 1):
            found |= resnet(f"{block}.resnets.{layer}", before + skips.pop(), width, time)
            if config["up_block_types"][level] == "CrossAttnUpBlock2D":
                found |= transformer(
                    f"{block}.attentions.{layer}", width, context, depths[::-1][level], flat
                )
            before = width
        if level < len(widths) - 1:
            found |= conv(f"{block}.upsamplers.0.conv", width, width)
    return (
        found
        | norm("conv_norm_out", widths[0])
        | conv("conv_out", widths[0], config["out_channels"])
    )


def controlnet(config: dict) -> Shapes:
    """A ControlNetModel of ``config.json``: half a UNet, an encoder of the map, a 1x1 convolution for each residual."""
    found, skips, _ = _encoder_half(config)
    widths = config["conditioning_embedding_out_channels"]
    found |= conv("controlnet_cond_embedding.conv_in", 3, widths[0])
    for place, (narrow, wide) in enumerate(itertools.pairwise(widths)):
        found |= conv(f"controlnet_cond_embedding.blocks.{2 * place}", narrow, narrow)
        found |= conv(f"controlnet_cond_embedding.blocks.{2 * place + 1}", narrow, wide)
    found |= conv("controlnet_cond_embedding.conv_out", widths[-1], config["block_out_channels"][0])
    for place, width in enumerate(skips):
        found |= conv(f"controlnet_down_blocks.{place}", width, width, 1)
    return found | conv("controlnet_mid_block", skips[-1], skips[-1], 1)


def vae(config: dict, old: bool = False) -> Shapes:
    """An AutoencoderKL of ``config.json``; ``old``: with the names of attention of diffusers before 0.18."""
    widths, latent = config["block_out_channels"], config["latent_channels"]
    layers = config["layers_per_block"]
    parts = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
    found = conv("quant_conv", 2 * latent, 2 * latent, 1) | conv(
        "post_quant_conv", latent, latent, 1
    )
    sides = (
        ("encoder", "down", widths, layers, config["in_channels"], 2 * latent),
        ("decoder", "up", widths[::-1], layers + 1, latent, config["out_channels"]),
    )
    for side, way, order, count, inside, outside in sides:
        found |= conv(f"{side}.conv_in", inside, order[0])
        before = order[0]
        for level, width in enumerate(order):
            block = f"{side}.{way}_blocks.{level}"
            for layer in range(count):
                found |= resnet(f"{block}.resnets.{layer}", before, width)
                before = width
            if level < len(order) - 1:
                found |= conv(f"{block}.{way}samplers.0.conv", width, width)

        middle, width = f"{side}.mid_block", widths[-1]
        found |= resnet(f"{middle}.resnets.0", width, width) | resnet(
            f"{middle}.resnets.1", width, width
        )
        found |= norm(f"{middle}.attentions.0.group_norm", width)
        for part in parts:
            found |= linear(f"{middle}.attentions.0.{part}", width, width)
        found |= norm(f"{side}.conv_norm_out", before) | conv(f"{side}.conv_out", before, outside)
    return found


def clip_layers(prefix: str, config: dict) -> Shapes:
    width, wide = config["hidden_size"], config["intermediate_size"]
    found: Shapes = {}
    for place in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layers.{place}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{layer}.self_attn.{part}", width, width)
        found |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        found |= linear(f"{layer}.mlp.fc1", width, wide) | linear(f"{layer}.mlp.fc2", wide, width)
    return found


def clip_text(config: dict, position_ids: bool = False, projection: bool = False) -> Shapes:
    """The text half of a CLIP as transformers 4 saved it; ``position_ids`` were in its files before 4.31."""
    width = config["hidden_size"]
    found = clip_layers("text_model", config) | norm("text_model.final_layer_norm", width)
    found["text_model.embeddings.token_embedding.weight"] = (config["vocab_size"], width)
    found["text_model.embeddings.position_embedding.weight"] = (
        config["max_position_embeddings"],
        width,
    )
    if position_ids:
        found["text_model.embeddings.position_ids"] = (1, config["max_position_embeddings"])
    if projection:
        found["text_projection.weight"] = (config["projection_dim"], width)
    return found


def clip_vision(config: dict, position_ids: bool = True) -> Shapes:
    """The vision half of a CLIP with its projection, as transformers 4 saved it."""
    width, patch = config["hidden_size"], config["patch_size"]
    places = (config["image_size"] // patch) ** 2 + 1
    found = clip_layers("vision_model", config)
    found |= norm("vision_model.pre_layrnorm", width) | norm("vision_model.post_layernorm", width)
    found["vision_model.embeddings.class_embedding"] = (width,)
    found["vision_model.embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    found["vision_model.embeddings.position_embedding.weight"] = (places, width)
    found["visual_projection.weight"] = (config["projection_dim"], width)
    if position_ids:
        found["vision_model.embeddings.position_ids"] = (1, places)
    return found


def clip(text: dict, vision: dict, position_ids: bool = True) -> Shapes:
    """A whole CLIP, as transformers 4 saved it."""
    return (
        clip_text(text, position_ids, True)
        | clip_vision(vision, position_ids)
        | {"logit_scale": ()}
    )


OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
}


def open_clip(tensors: dict) -> dict:
    """Tensors of ``clip`` -> the same model's by OpenCLIP's names: q, k and v in one, projections transposed."""
    import torch

    of = tensors.__getitem__
    found = {
        "logit_scale": of("logit_scale"),
        "token_embedding.weight": of("text_model.embeddings.token_embedding.weight"),
        "positional_embedding": of("text_model.embeddings.position_embedding.weight"),
        "text_projection": of("text_projection.weight").T,
        "visual.proj": of("visual_projection.weight").T,
        "visual.class_embedding": of("vision_model.embeddings.class_embedding"),
        "visual.conv1.weight": of("vision_model.embeddings.patch_embedding.weight"),
        "visual.positional_embedding": of("vision_model.embeddings.position_embedding.weight"),
    }
    for kind in ("weight", "bias"):
        found |= {f"{new}.{kind}": of(f"{old}.{kind}") for old, new in OPEN_CLIP_NORMS.items()}
        for side, there in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
            layers = {
                name.split(".")[3] for name in tensors if name.startswith(f"{side}.encoder.layers.")
            }
            for place in layers:
                layer, block = f"{side}.encoder.layers.{place}", f"{there}.resblocks.{place}"
                parts = [of(f"{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
                found |= {
                    f"{block}.{new}.{kind}": of(f"{layer}.{old}.{kind}")
                    for old, new in OPEN_CLIP_LAYER.items()
                }
    return found


def aesthetic(config: dict) -> Shapes:
    """LAION's aesthetic predictor on a CLIP's vision half."""
    widths = {
        0: (config["projection_dim"], 1024),
        2: (1024, 128),
        4: (128, 64),
        6: (64, 16),
        7: (16, 1),
    }
    found = clip_vision(config)
    for place, (inside, outside) in widths.items():
        found |= linear(f"layers.{place}", inside, outside)
    return found


def chatglm(config: dict) -> Shapes:
    """ChatGLM3 without the prefix of its language model, as Kolors has it."""
    width, head = config["hidden_size"], config["kv_channels"]
    attention = head * config["num_attention_heads"]
    groups = 2 * head * config["multi_query_group_num"]
    words = (config["padded_vocab_size"], width)
    found = {"embedding.word_embeddings.weight": words, "rotary_pos_emb.inv_freq": (head // 4,)}
    for place in range(config["num_layers"]):
        layer = f"encoder.layers.{place}"
        found |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
        found |= linear(f"{layer}.self_attention.query_key_value", width, attention + groups)
        found |= linear(f"{layer}.self_attention.dense", attention, width, bias=False)
        found |= linear(
            f"{layer}.mlp.dense_h_to_4h", width, 2 * config["ffn_hidden_size"], bias=False
        )
        found |= linear(f"{layer}.mlp.dense_4h_to_h", config["ffn_hidden_size"], width, bias=False)
    return found | {"encoder.final_layernorm.weight": (width,), "output_layer.weight": words}


def ip_adapter_plus(unet: Shapes, image: int, inner: int, outside: int) -> Shapes:
    """IP-Adapter plus for ``unet`` as tencent-ailab/IP-Adapter saves it.

    It has a resampler of four layers, and keys and values for each cross-attention.

    Args:
        image, inner, outside: Widths of the image encoder, of the resampler and of the UNet's text embeddings.
    """
    found: Shapes = {"image_proj.latents": (1, 16, inner)}
    found |= linear("image_proj.proj_in", image, inner)
    found |= linear("image_proj.proj_out", inner, outside) | norm("image_proj.norm_out", outside)
    for place in range(4):
        layer = f"image_proj.layers.{place}"
        attention, forward = f"{layer}.0", f"{layer}.1"
        found |= (
            norm(f"{attention}.norm1", inner)
            | norm(f"{attention}.norm2", inner)
            | norm(f"{forward}.0", inner)
        )
        found |= {
            f"{attention}.to_q.weight": (inner, inner),
            f"{attention}.to_kv.weight": (2 * inner, inner),
        }
        found |= {f"{attention}.to_out.weight": (inner, inner)}
        found |= {
            f"{forward}.1.weight": (4 * inner, inner),
            f"{forward}.3.weight": (inner, 4 * inner),
        }

    order = ("down_blocks", "up_blocks", "mid_block")
    keys = [
        name
        for part in order
        for name in unet
        if name.startswith(part) and name.endswith("attn2.to_k.weight")
    ]
    for place, name in enumerate(keys):  # counted together with self-attention, which has none
        found |= {
            f"ip_adapter.{2 * place + 1}.to_{part}_ip.weight": (unet[name][0], outside)
            for part in "kv"
        }
    return found
