"""LoRA files that are damaged, of other kinds or makers, or no LoRA at all."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save as serialise

from benchmarks.bad_inputs.lora_files import RANK, Made, Tensors, call, good, places, written
from benchmarks.bad_inputs.lora_objects import (
    ODD_NUMBERS,
    of_checkpoints,
    of_folders,
    of_paths,
)

ODD_NAMES = (
    "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
    "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight",
    "diffusion_model.layers.0.attention.to_q.lora_A.weight",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_k.lora_down.weight",
    "unet:99999999999999999999:up",
    "unet:0:up",
    "blocks." + "9" * 5000 + ".transformer_blocks.0.attn1.to_q.lora_A.default.weight",
    "lora_unet_input_blocks_" + "9" * 5000 + "_1_proj_in.lora_down.weight",
    "lora_unet_a\nb.lora_down.weight",
    "lora_unet_" + "mid_block_" * 5000 + ".lora_down.weight",
    "",
    ".",
    ".alpha",
    "😀.lora_A.weight",
    "lora_unet_mid_block_attentions_0_proj_in.dora_scale",
    "lora_unet_mid_block_attentions_0_proj_in.diff",
    "<word>",
    "emb_params",
)


def make(rng: random.Random, folder: Path) -> Made:
    """One bad input below ``folder``: what it is in a few words, and the call for it."""
    kinds = (of_bytes, of_header, of_tensors, of_tensors, of_names, of_kinds)
    kinds += (of_checkpoints, of_folders, of_paths)
    return rng.choice(kinds)(rng, folder)


def of_bytes(rng: random.Random, folder: Path) -> Made:
    """Bytes flipped, cut, zeroed, repeated or put in."""
    content = bytearray(serialise(good(rng), {"ss_base_model_version": "mini"}))
    how = rng.choice(("flipped", "cut", "zeroed", "repeated", "put in", "header flipped"))
    start, length = rng.randrange(len(content)), rng.randrange(1, 4000)
    if how == "flipped":
        for _ in range(rng.randrange(1, 50)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "header flipped":
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(600)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[start:]
    elif how == "zeroed":
        content[start : start + length] = bytes(len(content[start : start + length]))
    else:
        block = content[start : start + length] if how == "repeated" else rng.randbytes(length)
        content[start:start] = block
    path = folder / rng.choice(("lora.safetensors", "lora.ckpt", "lora", "LORA.SAFETENSORS"))
    path.write_bytes(content)
    return f"safetensors {how} at {start}", call(rng, path, folder)


def of_header(rng: random.Random, folder: Path) -> Made:
    """The header says other things than the file holds."""
    content = serialise(good(rng), {"ss_base_model_version": "mini"})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    key = rng.choice([key for key in header if key != "__metadata__"])
    field = rng.choice(("dtype", "shape", "data_offsets"))
    odd = {
        "dtype": ("F8_E4M3", "F4", "C64", "BOOL", "I8", "F64", "", None, 3),
        "shape": ([], [0], [-1, 4], [2**62, 2**62], [1.5, 2], "4", None, [[1]]),
        "data_offsets": ([0, 4], [4, 0], [-4, 0], [0, 2**63], [0], None, "0"),
    }[field]
    how = rng.choice(("field", "field", "metadata", "twice", "longer", "deep", "not UTF-8"))
    if how == "field":
        header[key][field] = rng.choice(odd)
    elif how == "metadata":
        header["__metadata__"] = rng.choice(
            (None, [], "a", {"a": 1}, {"a": None}, {"a": "x" * 10**7})
        )
    text = json.dumps(header).encode()
    if how == "twice":
        text = text[:-1] + b"," + json.dumps({key: header[key]}).encode()[1:]
    elif how == "longer":
        text += b" " * rng.choice((1, 7, 10**6))
    elif how == "deep":
        text = text[:-1] + b',"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    elif how == "not UTF-8":
        text = text.replace(b"mini", rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\x00")))
    size = rng.choice((len(text), len(text), len(text), 2**63, 0, 10**8, len(text) - 1))
    path = folder / "lora.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + text + content[8 + length :])
    return f"safetensors header: {how} {field}", call(rng, path, folder)


def of_tensors(rng: random.Random, folder: Path) -> Made:
    """Values, types and shapes that no LoRA has."""
    tensors = good(rng)
    key = rng.choice(sorted(tensors))
    tensor = tensors[key]
    changes: dict[str, Callable[[], object]] = {
        "missing": lambda: tensors.pop(key),
        "one odd value": lambda: tensor.view(-1)[:1].fill_(rng.choice((math.nan, math.inf, 1e38))),
        "all odd": lambda: tensor.fill_(rng.choice((math.nan, math.inf, 0.0, 1e38, -1e-40))),
        "complex": lambda: tensors.update({key: tensor.to(torch.complex64)}),
        "whole numbers": lambda: tensors.update({key: tensor.to(torch.int8)}),
        "booleans": lambda: tensors.update({key: tensor > 0}),
        "float8": lambda: tensors.update({key: tensor.to(torch.float8_e4m3fn)}),
        "float64": lambda: tensors.update({key: tensor.double()}),
        "turned": lambda: tensors.update({key: tensor.transpose(0, -1) if tensor.ndim else tensor}),
        "flat": lambda: tensors.update({key: tensor.flatten()}),
        "more axes": lambda: tensors.update({key: tensor[None]}),
        "rank 0": lambda: tensors.update({key: tensor[:0] if tensor.ndim else tensor}),
        "one row": lambda: tensors.update({key: tensor[:1] if tensor.ndim else tensor}),
        "wider": lambda: tensors.update(
            {key: torch.cat([tensor, tensor], -1)} if tensor.ndim else {}
        ),
        "odd alpha": lambda: tensors.update(
            {name: torch.tensor(float(rng.choice((0, -1, math.nan, math.inf, 1e30))))}
        ),
        "alpha of many": lambda: tensors.update({name: torch.ones(rng.randrange(0, 4))}),
        "alpha whole": lambda: tensors.update({name: torch.tensor(rng.choice((0, 4, -3)))}),
        "swapped": lambda: tensors.update(swapped(tensors)),
    }
    name = key.rpartition(".lora")[0].removesuffix(".alpha") + ".alpha"
    how = rng.choice(sorted(changes))
    changes[how]()
    if rng.random() < 0.2:
        torch.save(tensors, folder / "lora.pt")
        return f"checkpoint: {how}", call(rng, folder / "lora.pt", folder)
    path = written(tensors, folder / "lora.safetensors")
    if rng.random() < 0.1:
        odd = rng.choice(ODD_NUMBERS)
        return f"`alpha` is {odd!r}"[:60], call(rng, path, folder, alpha=odd)
    return f"tensors: {how}", call(rng, path, folder)


def swapped(tensors: Tensors) -> Tensors:
    """Every half under the other's name."""
    turn = {"lora_A": "lora_B", "lora_B": "lora_A", "lora_up": "lora_down", "lora_down": "lora_up"}
    renamed = {}
    for key, tensor in tensors.items():
        old = next((name for name in turn if name in key), None)
        renamed[key.replace(old, turn[old]) if old else key] = tensor
    return renamed


def of_names(rng: random.Random, folder: Path) -> Made:
    """Names of other makers, other families, and none at all; metadata of other bases."""
    tensors = good(rng)
    name = rng.choice(ODD_NAMES)
    if rng.random() < 0.5:
        tensors = {}
    tensors[name] = torch.ones(2, 2)
    versions = ("mini", "sd_v1", "sdxl_base_v1-0", "flux1", "", "sd_v2", "x" * 10**6, "a\nb")
    metadata = {"ss_base_model_version": rng.choice(versions)}
    if rng.random() < 0.5:
        odd = rng.choice(("", "{", "[]", "[" * 50_000, "null", '{"unet.lora_alpha": NaN}'))
        metadata["lora_adapter_metadata"] = odd
    path = written(tensors, folder / "lora.safetensors", metadata)
    return f"a tensor called {name[:40]!r}", call(rng, path, folder)


def of_kinds(rng: random.Random, folder: Path) -> Made:
    """LoHa, LoKr, DoRA and the like, whole or not."""
    kohya, _, (outputs, *inputs) = rng.choice(places())
    flat = math.prod(inputs)
    shapes = {
        "hada_w1_a": (outputs, RANK),
        "hada_w1_b": (RANK, flat),
        "hada_w2_a": (outputs, RANK),
        "hada_w2_b": (RANK, flat),
        "hada_t1": (RANK, RANK, 3, 3),
        "lokr_w1": (4, 4),
        "lokr_w2": (outputs // 4, inputs[0] // 4, *inputs[1:]),
        "lokr_w1_a": (4, RANK),
        "lokr_t2": (RANK, RANK, 3, 3),
        "lora_down.weight": (RANK, inputs[0], *[1] * (len(inputs) - 1)),
        "lora_up.weight": (outputs, RANK, *[1] * (len(inputs) - 1)),
        "lora_mid.weight": (RANK, RANK, 3, 3),
        "dora_scale": (1, inputs[0]),
        "alpha": (),
    }
    start = rng.choice(("hada_w", "lokr_w", "lora_"))
    parts = [part for part in shapes if part.startswith(start)] + ["alpha"]
    parts += rng.sample(sorted(shapes), rng.randrange(3))
    parts = rng.sample(parts, max(1, len(parts) - rng.randrange(3)))
    tensors = {f"{kohya}.{part}": torch.randn(shapes[part]) for part in parts}
    if rng.random() < 0.3:
        key = rng.choice(sorted(tensors))
        sizes = [rng.choice((0, 1, 2, 3, 5, 40_000)) for _ in range(rng.randrange(4))]
        if math.prod(sizes) <= 10**6:
            tensors[key] = torch.ones(sizes)
    path = written(tensors, folder / "lora.safetensors")
    return f"a kind with {', '.join(parts)}"[:90], call(rng, path, folder)
