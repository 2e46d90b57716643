"""Names and shapes of tensors of published encoders: CLIP, OpenCLIP, ChatGLM3."""

from tests.published import Shapes, linear, norm


def clip_layers(prefix: str, config: dict) -> Shapes:
    width, wide = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {}
    for index in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", width, width)
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= linear(f"{layer}.mlp.fc1", width, wide) | linear(f"{layer}.mlp.fc2", wide, width)
    return shapes


def clip_text(config: dict, position_ids: bool = False, projection: bool = False) -> Shapes:
    """The text half of a CLIP as transformers 4 saved it, before 4.31 with ``position_ids``."""
    width = config["hidden_size"]
    shapes = clip_layers("text_model", config) | norm("text_model.final_layer_norm", width)
    shapes["text_model.embeddings.token_embedding.weight"] = (config["vocab_size"], width)
    shapes["text_model.embeddings.position_embedding.weight"] = (
        config["max_position_embeddings"],
        width,
    )
    if position_ids:
        shapes["text_model.embeddings.position_ids"] = (1, config["max_position_embeddings"])
    if projection:
        shapes["text_projection.weight"] = (config["projection_dim"], width)
    return shapes


def clip_vision(config: dict, position_ids: bool = True) -> Shapes:
    """The vision half of a CLIP with its projection, as transformers 4 saved it."""
    width, patch = config["hidden_size"], config["patch_size"]
    positions = (config["image_size"] // patch) ** 2 + 1
    shapes = clip_layers("vision_model", config)
    shapes |= norm("vision_model.pre_layrnorm", width) | norm("vision_model.post_layernorm", width)
    shapes["vision_model.embeddings.class_embedding"] = (width,)
    shapes["vision_model.embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    shapes["vision_model.embeddings.position_embedding.weight"] = (positions, width)
    shapes["visual_projection.weight"] = (config["projection_dim"], width)
    if position_ids:
        shapes["vision_model.embeddings.position_ids"] = (1, positions)
    return shapes


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
    """Tensors of ``clip`` by OpenCLIP's names: q, k and v in one, projections transposed."""
    import torch

    of = tensors.__getitem__
    shapes = {
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
        shapes |= {f"{new}.{kind}": of(f"{old}.{kind}") for old, new in OPEN_CLIP_NORMS.items()}
        for side, there in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
            layers = {
                name.split(".")[3] for name in tensors if name.startswith(f"{side}.encoder.layers.")
            }
            for index in layers:
                layer, block = f"{side}.encoder.layers.{index}", f"{there}.resblocks.{index}"
                parts = [of(f"{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
                shapes[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
                shapes |= {
                    f"{block}.{new}.{kind}": of(f"{layer}.{old}.{kind}")
                    for old, new in OPEN_CLIP_LAYER.items()
                }
    return shapes


def aesthetic(config: dict) -> Shapes:
    """LAION's aesthetic predictor on a CLIP's vision half."""
    widths = {
        0: (config["projection_dim"], 1024),
        2: (1024, 128),
        4: (128, 64),
        6: (64, 16),
        7: (16, 1),
    }
    shapes = clip_vision(config)
    for index, (inside, outside) in widths.items():
        shapes |= linear(f"layers.{index}", inside, outside)
    return shapes


def chatglm(config: dict) -> Shapes:
    """ChatGLM3 without the prefix of its language model, as Kolors has it."""
    width, head = config["hidden_size"], config["kv_channels"]
    attention = head * config["num_attention_heads"]
    groups = 2 * head * config["multi_query_group_num"]
    words = (config["padded_vocab_size"], width)
    shapes = {"embedding.word_embeddings.weight": words, "rotary_pos_emb.inv_freq": (head // 4,)}
    for index in range(config["num_layers"]):
        layer = f"encoder.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
        shapes |= linear(f"{layer}.self_attention.query_key_value", width, attention + groups)
        shapes |= linear(f"{layer}.self_attention.dense", attention, width, bias=False)
        shapes |= linear(
            f"{layer}.mlp.dense_h_to_4h", width, 2 * config["ffn_hidden_size"], bias=False
        )
        shapes |= linear(f"{layer}.mlp.dense_4h_to_h", config["ffn_hidden_size"], width, bias=False)
    return shapes | {"encoder.final_layernorm.weight": (width,), "output_layer.weight": words}
