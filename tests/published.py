"""Names and shapes of tensors in published repositories, by the rules of their layouts.

Written without the classes that read them. At full size they have the MD5 of the real files
(``test_real_layouts.py``); in small they are what tests lay out.
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
    shapes = norm(f"{name}.norm1", inside) | conv(f"{name}.conv1", inside, outside)
    shapes |= norm(f"{name}.norm2", outside) | conv(f"{name}.conv2", outside, outside)
    if time:
        shapes |= linear(f"{name}.time_emb_proj", time, outside)
    if inside != outside:
        shapes |= conv(f"{name}.conv_shortcut", inside, outside, 1)
    return shapes


def transformer(name: str, width: int, context: int, depth: int, is_linear: bool) -> Shapes:
    """A Transformer2DModel of ``depth`` blocks; attention has biases at its output alone."""
    project = linear if is_linear else lambda name, inside, outside: conv(name, inside, outside, 1)
    shapes = norm(f"{name}.norm", width)
    shapes |= project(f"{name}.proj_in", width, width) | project(f"{name}.proj_out", width, width)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, source in (("attn1", width), ("attn2", context)):
            shapes |= linear(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_k", source, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_v", source, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_out.0", width, width)
        for number in (1, 2, 3):
            shapes |= norm(f"{block}.norm{number}", width)
        shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(
            f"{block}.ff.net.2", 4 * width, width
        )
    return shapes


def _encoder_half(config: dict) -> tuple[Shapes, list[int], list[int]]:
    """What UNet and ControlNet share; widths of skip connections; transformer blocks a level."""
    widths, context = config["block_out_channels"], config["cross_attention_dim"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = depths if isinstance(depths, list) else [depths] * len(widths)
    time = 4 * widths[0]
    flat = config.get("use_linear_projection", False)

    shapes = conv("conv_in", config["in_channels"], widths[0])
    shapes |= linear("time_embedding.linear_1", widths[0], time) | linear(
        "time_embedding.linear_2", time, time
    )
    if config.get("encoder_hid_dim"):
        shapes |= linear("encoder_hid_proj", config["encoder_hid_dim"], context)
    if config.get("addition_embed_type") == "text_time":
        shapes |= linear(
            "add_embedding.linear_1", config["projection_class_embeddings_input_dim"], time
        )
        shapes |= linear("add_embedding.linear_2", time, time)

    skips, before = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        block = f"down_blocks.{level}"
        for layer in range(config["layers_per_block"]):
            shapes |= resnet(f"{block}.resnets.{layer}", before, width, time)
            if config["down_block_types"][level] == "CrossAttnDownBlock2D":
                shapes |= transformer(
                    f"{block}.attentions.{layer}", width, context, depths[level], flat
                )
            before = width
            skips.append(width)
        if level < len(widths) - 1:
            shapes |= conv(f"{block}.downsamplers.0.conv", width, width)
            skips.append(width)

    shapes |= resnet("mid_block.resnets.0", before, before, time) | resnet(
        "mid_block.resnets.1", before, before, time
    )
    shapes |= transformer("mid_block.attentions.0", before, context, depths[-1], flat)
    return shapes, skips, depths


def unet(config: dict) -> Shapes:
    """A UNet2DConditionModel of ``config.json``."""
    shapes, skips, depths = _encoder_half(config)
    widths, time = config["block_out_channels"], 4 * config["block_out_channels"][0]
    context, flat = config["cross_attention_dim"], config.get("use_linear_projection", False)
    before = widths[-1]
    for level, width in enumerate(reversed(widths)):
        block = f"up_blocks.{level}"
        for layer in range(config["layers_per_block"] + 1):
            shapes |= resnet(f"{block}.resnets.{layer}", before + skips.pop(), width, time)
            if config["up_block_types"][level] == "CrossAttnUpBlock2D":
                shapes |= transformer(
                    f"{block}.attentions.{layer}", width, context, depths[::-1][level], flat
                )
            before = width
        if level < len(widths) - 1:
            shapes |= conv(f"{block}.upsamplers.0.conv", width, width)
    return (
        shapes
        | norm("conv_norm_out", widths[0])
        | conv("conv_out", widths[0], config["out_channels"])
    )


def controlnet(config: dict) -> Shapes:
    """A ControlNetModel of ``config.json``.

    It is half a UNet, an encoder of the map, and a 1x1 convolution for each residual.
    """
    shapes, skips, _ = _encoder_half(config)
    widths = config["conditioning_embedding_out_channels"]
    shapes |= conv("controlnet_cond_embedding.conv_in", 3, widths[0])
    for index, (narrow, wide) in enumerate(itertools.pairwise(widths)):
        shapes |= conv(f"controlnet_cond_embedding.blocks.{2 * index}", narrow, narrow)
        shapes |= conv(f"controlnet_cond_embedding.blocks.{2 * index + 1}", narrow, wide)
    shapes |= conv(
        "controlnet_cond_embedding.conv_out", widths[-1], config["block_out_channels"][0]
    )
    for index, width in enumerate(skips):
        shapes |= conv(f"controlnet_down_blocks.{index}", width, width, 1)
    return shapes | conv("controlnet_mid_block", skips[-1], skips[-1], 1)


def vae(config: dict, old: bool = False) -> Shapes:
    """An AutoencoderKL of ``config.json``; ``old``: with attention as in diffusers before 0.18."""
    widths, latent = config["block_out_channels"], config["latent_channels"]
    layers = config["layers_per_block"]
    parts = ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
    shapes = conv("quant_conv", 2 * latent, 2 * latent, 1) | conv(
        "post_quant_conv", latent, latent, 1
    )
    sides = (
        ("encoder", "down", widths, layers, config["in_channels"], 2 * latent),
        ("decoder", "up", widths[::-1], layers + 1, latent, config["out_channels"]),
    )
    for side, way, order, count, inside, outside in sides:
        shapes |= conv(f"{side}.conv_in", inside, order[0])
        before = order[0]
        for level, width in enumerate(order):
            block = f"{side}.{way}_blocks.{level}"
            for layer in range(count):
                shapes |= resnet(f"{block}.resnets.{layer}", before, width)
                before = width
            if level < len(order) - 1:
                shapes |= conv(f"{block}.{way}samplers.0.conv", width, width)

        middle, width = f"{side}.mid_block", widths[-1]
        shapes |= resnet(f"{middle}.resnets.0", width, width) | resnet(
            f"{middle}.resnets.1", width, width
        )
        shapes |= norm(f"{middle}.attentions.0.group_norm", width)
        for part in parts:
            shapes |= linear(f"{middle}.attentions.0.{part}", width, width)
        shapes |= norm(f"{side}.conv_norm_out", before) | conv(f"{side}.conv_out", before, outside)
    return shapes


def ip_adapter_plus(unet: Shapes, image: int, inner: int, outside: int) -> Shapes:
    """IP-Adapter plus for ``unet`` as tencent-ailab/IP-Adapter saves it.

    It has a resampler of four layers, and keys and values for each cross-attention.

    Args:
        image, inner, outside: Widths of the image encoder, the resampler and the UNet's text
            embeddings.
    """
    shapes: Shapes = {"image_proj.latents": (1, 16, inner)}
    shapes |= linear("image_proj.proj_in", image, inner)
    shapes |= linear("image_proj.proj_out", inner, outside) | norm("image_proj.norm_out", outside)
    for index in range(4):
        layer = f"image_proj.layers.{index}"
        attention, forward = f"{layer}.0", f"{layer}.1"
        shapes |= (
            norm(f"{attention}.norm1", inner)
            | norm(f"{attention}.norm2", inner)
            | norm(f"{forward}.0", inner)
        )
        shapes |= {
            f"{attention}.to_q.weight": (inner, inner),
            f"{attention}.to_kv.weight": (2 * inner, inner),
        }
        shapes |= {f"{attention}.to_out.weight": (inner, inner)}
        shapes |= {
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
    for index, name in enumerate(keys):  # counted together with self-attention, which has none
        shapes |= {
            f"ip_adapter.{2 * index + 1}.to_{part}_ip.weight": (unet[name][0], outside)
            for part in "kv"
        }
    return shapes
