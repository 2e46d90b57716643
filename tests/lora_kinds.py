"""Modules of other kinds than the plain LoRA: parts, and changes by the makers' formulas."""

import torch

RANK, ALPHA = 3, 1.5
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
KERNEL = "down_blocks.0.resnets.0.conv1"
ONE = "down_blocks.0.attentions.0.proj_in"  # a convolution of 1 x 1 in SD 1.5


GENERATOR = torch.Generator().manual_seed(4)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR) * 0.3


def cored(core, a, b):
    """lycoris/functional/general.py, rebuild_tucker."""
    return torch.einsum("i j k l, j r, i p -> p r k l", core, b, a).contiguous()


def kernel_of(shape):
    return tuple(shape[2:]) or (1, 1)


def tucker(shape):
    """lycoris/modules/locon.py, make_weight; comfy/weight_adapter/lora.py."""
    outputs, inputs, *kernel = shape
    up, down = normal(outputs, RANK, 1, 1), normal(RANK, inputs, 1, 1)
    mid = normal(RANK, RANK, *kernel)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid}
    change = torch.einsum("m n k l, o m, n i -> o i k l", mid, up.flatten(1), down.flatten(1))
    return parts, change * ALPHA / RANK


def loha(shape):
    """lycoris/functional/loha.py, diff_weight."""
    outputs, inputs = shape[0], shape[1:].numel()
    parts = {"hada_w1_a": normal(outputs, RANK), "hada_w1_b": normal(RANK, inputs)}
    parts |= {"hada_w2_a": normal(outputs, RANK), "hada_w2_b": normal(RANK, inputs)}
    first = parts["hada_w1_a"] @ parts["hada_w1_b"]
    return parts, first * (parts["hada_w2_a"] @ parts["hada_w2_b"]) * ALPHA / RANK


def loha_of_high_rank(shape):
    """Its square is above the sides of the weight."""
    outputs, inputs, rank = shape[0], shape[1:].numel(), 9
    parts = {"hada_w1_a": normal(outputs, rank), "hada_w1_b": normal(rank, inputs)}
    parts |= {"hada_w2_a": normal(outputs, rank), "hada_w2_b": normal(rank, inputs)}
    first = parts["hada_w1_a"] @ parts["hada_w1_b"]
    return parts, first * (parts["hada_w2_a"] @ parts["hada_w2_b"]) * ALPHA / rank


def loha_with_cores(shape):
    outputs, inputs = shape[:2]
    parts, change = {}, 1.0
    for side in "12":
        core, a, b = (
            normal(RANK, RANK, *kernel_of(shape)),
            normal(RANK, outputs),
            normal(RANK, inputs),
        )
        parts |= {f"hada_t{side}": core, f"hada_w{side}_a": a, f"hada_w{side}_b": b}
        change = change * cored(core, a, b)
    return parts, change * ALPHA / RANK


def lokr(shape):
    """comfy/weight_adapter/lokr.py, calculate_weight: w1 whole, w2 in halves."""
    outputs, inputs = shape[0] // 4, shape[1] // 4 * kernel_of(shape)[0] ** 2
    parts = {"lokr_w1": normal(4, 4), "lokr_w2_a": normal(outputs, RANK)}
    parts["lokr_w2_b"] = normal(RANK, inputs)
    change = torch.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"])
    return parts, change * ALPHA / RANK


def lokr_in_halves(shape):
    parts, _ = lokr(shape)
    parts |= {"lokr_w1_a": normal(4, RANK), "lokr_w1_b": normal(RANK, 4)}
    del parts["lokr_w1"]
    first, second = (parts[f"lokr_w{side}_a"] @ parts[f"lokr_w{side}_b"] for side in "12")
    return parts, torch.kron(first, second) * ALPHA / RANK


def lokr_whole(shape):
    """Alpha is passed over."""
    parts = {"lokr_w1": normal(4, 4), "lokr_w2": normal(shape[0] // 4, shape[1] // 4, *shape[2:])}
    first = parts["lokr_w1"].reshape(4, 4, *[1] * (len(shape) - 2))
    return parts, torch.kron(first, parts["lokr_w2"])


def lokr_with_core(shape):
    core = normal(RANK, RANK, *kernel_of(shape))
    a, b = normal(RANK, shape[0] // 4), normal(RANK, shape[1] // 4)
    parts = {"lokr_w1": normal(4, 4), "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
    return parts, torch.kron(parts["lokr_w1"][:, :, None, None], cored(core, a, b)) * ALPHA / RANK
