"""Inverse of diffusers' single-file mapping: components -> one state dict in the original layout.

The layout is that of LDM and SGM. Works on meta tensors too, so real sizes can be listed without
weights.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

from storyboard.models import loading

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_key(key, step, up_with_attention):
    stem, leaf = key.rsplit(".", 1)
    if stem in UNET_TOP:
        return f"{UNET_TOP[stem]}.{leaf}"
    part = key.split(".")
    if part[0] == "mid_block":
        i = int(part[2])
        if part[1] == "attentions":
            return ".".join(["middle_block", str(2 * i + 1), *part[3:]])
        return ".".join(["middle_block", str(2 * i), RESNET[part[3]], *part[4:]])
    side, block, kind, layer = part[0], int(part[1]), part[2], int(part[3])
    if side == "down_blocks":
        if kind == "downsamplers":  # down_blocks.B.downsamplers.0.conv.weight
            return f"input_blocks.{(block + 1) * step}.0.op.{leaf}"
        n, name = block * step + layer + 1, "input_blocks"
    else:
        if kind == "upsamplers":
            index = 2 if block in up_with_attention else 1
            return f"output_blocks.{block * step + step - 1}.{index}.conv.{leaf}"
        n, name = block * step + layer, "output_blocks"
    if kind == "attentions":
        return ".".join([name, str(n), "1", *part[4:]])
    return ".".join([name, str(n), "0", RESNET[part[4]], *part[5:]])


def unet(sd, config, prefix="model.diffusion_model."):
    down = (
        config["layers_per_block"] + 1
    )  # resnets + downsampler on the way down, resnets + 1 on the way up: the same number
    attention = {
        int(k.split(".")[1]) for k in sd if k.startswith("up_blocks.") and ".attentions." in k
    }
    return {prefix + unet_key(k, down, attention): v for k, v in sd.items()}


def vae(sd, config, prefix="first_stage_model."):
    last, out = len(config["block_out_channels"]) - 1, {}
    for key, value in sd.items():
        part = key.split(".")
        if "down_blocks" in part or "up_blocks" in part:
            side, i, kind = part[0], int(part[2]), part[3]
            name, i = ("down", i) if part[1] == "down_blocks" else ("up", last - i)
            if kind == "resnets":
                new = ".".join([side, name, str(i), "block", part[4], *part[5:]]).replace(
                    "conv_shortcut", "nin_shortcut"
                )
            else:
                new = ".".join(
                    [side, name, str(i), "downsample" if name == "down" else "upsample", *part[5:]]
                )
        elif len(part) > 1 and part[1] == "mid_block":
            if part[2] == "resnets":
                new = ".".join([part[0], "mid", f"block_{int(part[3]) + 1}", *part[4:]])
            else:
                rest = (
                    ".".join(part[4:])
                    .replace("group_norm", "norm")
                    .replace("to_out.0", "proj_out")
                    .replace("to_", "")
                )
                new = f"{part[0]}.mid.attn_1.{rest}"
        else:
            new = key.replace("conv_norm_out", "norm_out")

        # attention is a 1x1 convolution in the original
        is_linear = ".attn_1." in new and value.ndim == 2
        out[prefix + new] = (value[:, :, None, None] if is_linear else value).contiguous()
    return out


def clip(sd, prefix, position_ids=None):
    """transformers' CLIP below ``prefix``; version 5 has no ``text_model.`` in CLIPTextModel."""
    out = {
        f"{prefix}transformer.text_model.{k.removeprefix('text_model.')}": v for k, v in sd.items()
    }
    if position_ids is not None:
        out[f"{prefix}transformer.text_model.embeddings.position_ids"] = position_ids
    return out


def open_clip(sd, prefix, device="cpu"):
    """CLIPTextModelWithProjection -> open_clip: q, k, v stacked, projection transposed."""
    sd = {k.removeprefix("text_model."): v for k, v in sd.items()}
    out = {
        "positional_embedding": sd["embeddings.position_embedding.weight"],
        "token_embedding.weight": sd["embeddings.token_embedding.weight"],
        "ln_final.weight": sd["final_layer_norm.weight"],
        "ln_final.bias": sd["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6052, device=device),
    }
    if "text_projection.weight" in sd:
        out["text_projection"] = sd["text_projection.weight"].T.contiguous()
    layers = 1 + max(int(k.split(".")[2]) for k in sd if k.startswith("encoder.layers."))
    for i in range(layers):
        a, b = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for leaf in ("weight", "bias"):
            out[f"{b}attn.in_proj_{leaf}"] = torch.cat(
                [sd[f"{a}self_attn.{x}_proj.{leaf}"] for x in "qkv"]
            )
            for new, old in {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }.items():
                out[f"{b}{new}.{leaf}"] = sd[f"{a}{old}.{leaf}"]
    return {prefix + k: v for k, v in out.items()}


def single_file(pipe, ids=True):
    """The original-layout state dict of a StableDiffusionPipeline or StableDiffusionXLPipeline."""
    device = pipe.unet.conv_in.weight.device
    position_ids = torch.arange(77, device=device)[None].clone() if ids else None
    out = unet(pipe.unet.state_dict(), pipe.unet.config) | vae(
        pipe.vae.state_dict(), pipe.vae.config
    )
    if getattr(pipe, "text_encoder_2", None) is not None:
        out |= clip(pipe.text_encoder.state_dict(), "conditioner.embedders.0.", position_ids)
        out |= open_clip(pipe.text_encoder_2.state_dict(), "conditioner.embedders.1.model.", device)
    else:
        out |= clip(pipe.text_encoder.state_dict(), "cond_stage_model.", position_ids)
    return out


def write(
    base, path: Path, more: Mapping[str, torch.Tensor] | None = None, dtype=torch.float32
) -> Path:
    """Write ``base``, an SD 1.5 or SDXL, as one file at ``path``, with ``more`` tensors."""
    parts = {component: loading.load(base, component, dtype) for component in base.components}
    tensors = single_file(SimpleNamespace(**parts)) | dict(more or {})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
