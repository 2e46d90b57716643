"""What people give as a LoRA that is no safetensors file: old checkpoints, folders, other paths."""

import json
import math
import os
import pickle
import random
import zipfile
from pathlib import Path

import torch

from benchmarks.bad_inputs.lora_files import RANK, Made, call, good, written

ODD_NUMBERS = (0, -1, 1e-30, 1e30, 1e39, math.nan, math.inf, -math.inf, 10**400, True, None)
ODD_VALUES = (*ODD_NUMBERS, "", "8", "nan", [], [1], {}, {"a": 1}, "\ud800", "a\nb", "x" * 10_000)


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch storyboard-bomb",)


def of_checkpoints(rng: random.Random, folder: Path) -> Made:
    """Old checkpoints: other objects, other tensors, damaged archives, code."""
    path, tensors = folder / rng.choice(("lora.pt", "lora.ckpt", "lora.safetensors")), good(rng)
    key = rng.choice(sorted(tensors))
    sparse = torch.eye(4).to_sparse()
    objects: dict[str, object] = {
        "a list": [torch.ones(2)],
        "nothing": None,
        "a number": 3,
        "a text": "lora",
        "lists in it": tensors | {key: [tensors[key]]},
        "nothing in it": tensors | {key: None},
        "numbers for names": dict(enumerate(tensors.values())),
        "state_dict": {"state_dict": tensors, "epoch": 3},
        "state_dict of nothing": {"state_dict": None},
        "state_dict in itself": {"state_dict": {"state_dict": tensors}},
        "two state_dicts": {"state_dict": tensors, "module": tensors},
        "sparse": tensors | {key: sparse},
        "expanded": tensors | {key: torch.ones(1).expand(10**5, 10**6)},
        "shared": dict.fromkeys(tensors, tensors[key]),
        "views": {
            name: tensor.t() if tensor.ndim == 2 else tensor for name, tensor in tensors.items()
        },
        "quantised": tensors | {key: torch.quantize_per_tensor(torch.ones(4), 1.0, 0, torch.qint8)},
        "on meta": tensors | {key: torch.empty(2, 2, device="meta")},
        "an embedding": {"string_to_param": {"*": torch.ones(2, 4)}, "name": "a"},
        "code": tensors | {"a": Bomb()},
        "empty": {},
    }
    how = rng.choice((*objects, "cut", "flipped", "packed", "pickle", "zip"))
    if how in objects:
        torch.save(objects[how], path)
    elif how in ("cut", "flipped"):
        torch.save(tensors, path)
        content = bytearray(path.read_bytes())
        if how == "cut":
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.randrange(1, 30) if how == "flipped" else 0):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"a": rng.choice((1, [1], Bomb()))}))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl" if how == "packed" else "a.txt", bytes(10**7))
    return f"checkpoint: {how}", call(rng, path, folder)


def of_folders(rng: random.Random, folder: Path) -> Made:
    """peft's folders with odd configurations."""
    adapter = folder / "adapter"
    adapter.mkdir()
    tensors = {
        key.replace("unet.", "base_model.model."): tensor for key, tensor in good(rng).items()
    }
    written(tensors, adapter / rng.choice(("adapter_model.safetensors", "other.safetensors")))
    config: dict[str, object] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4}
    fields = ("peft_type", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "bias")
    for field in rng.sample(fields, rng.randrange(3)):
        config[field] = rng.choice(ODD_VALUES)
    if rng.random() < 0.4:
        pattern = rng.choice(("(a+)+$", "(", "x" * 10**5, ".*" * 30, "to_q", "^", "\\", ""))
        config["alpha_pattern"] = {pattern: rng.choice(ODD_VALUES)}
    text = json.dumps(config).encode()
    text = rng.choice((text, text, text, text[:-2], b"\xff" + text, b"", b"[" * 10**5, b"null"))
    (adapter / "adapter_config.json").write_bytes(text)
    return "a folder of peft's", call(rng, adapter, folder)


def of_paths(rng: random.Random, folder: Path) -> Made:
    """What is no file, or no path."""
    path = folder / "lora.safetensors"
    how = rng.choice(("folder", "pipe", "link", "loop", "empty", "page", "pointer", "noise", "odd"))
    if how == "folder":
        path.mkdir()
        (path / "a.safetensors").touch()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in ("link", "loop"):
        path.symlink_to(path.name if how == "loop" else "nowhere")
    elif how != "odd":
        texts = {"empty": b"", "page": b"\n <html>", "pointer": b"version https://git-lfs.x"}
        path.write_bytes(texts.get(how, rng.randbytes(rng.randrange(1, 5000))))
    else:
        odd = rng.choice(
            (None, 3, [], [path], b"lora", "", "\0", "~nobody/a", "a" * 5000, {}, True)
        )
        name = "LoRA" if isinstance(odd, str) and odd else "lora"  # as the sentence calls it
        return f"`{name}` is {odd!r}"[:60], call(rng, odd, folder)
    return f"a path: {how}", call(rng, path, folder)
