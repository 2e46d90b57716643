"""Good texts and records of pictures, and ways to spoil them."""

import json
import random

from storyboard.records import BaseRecord, DrawnRecord, LoraRecord, PanelRecord

SIDE = 8  # pixels
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    2**64,
    1e400,
    float("nan"),
    -0.5,
    "",
    "a\nb",
    "\ud83d",
    "\0",
    "((((((((",
    "[a:b:0.5] BREAK <lora:x:1>",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "9" * 5000,
    [],
    {},
    [[]],
    ["3", 0],
    ["3", -1],
    {"a": None},
    "cat " * 5000,
)
A1111 = (
    "a cat, (night:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, "
    'Seed: 3, Size: 512x512, Hashes: {"a": "b, c"}, Lora hashes: "x: 1, y: 2"'
)
DREAM = '"a cat [blurry]" -s 50 -S 3 -W 512 -H 512 -C 5 -A k_lms'
FOOOCUS = {"prompt": "a cat", "negative_prompt": "blurry", "seed": "3", "steps": 30, "loras": []}
SWARM = {"sui_image_params": {"prompt": "a cat", "negativeprompt": "x", "seed": 3, "steps": 25}}
INVOKE = {"positive_prompt": "a cat", "negative_prompt": "x", "seed": 3, "steps": 35}
INVOKE_2 = {"image": {"prompt": [{"prompt": "a cat [x]", "weight": 1.0}], "seed": 3, "steps": 5}}
NOVELAI = {
    "uc": "x",
    "seed": 3,
    "steps": 28,
    "v4_prompt": {"caption": {"base_caption": "a cat", "char_captions": [{"char_caption": "b"}]}},
}


def _node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


GRAPH = {
    "3": _node(
        "KSampler",
        seed=["20", 0],
        steps=20,
        cfg=8.0,
        sampler_name="euler",
        model=["4", 0],
        positive=["10", 0],
        negative=["7", 0],
        latent_image=["5", 0],
    ),
    "4": _node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
    "5": _node("EmptyLatentImage", width=512, height=512, batch_size=1),
    "6": _node("CLIPTextEncode", text=["21", 0], clip=["4", 1]),
    "7": _node("CLIPTextEncode", text="blurry", clip=["4", 1]),
    "8": _node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": _node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    "10": _node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["7", 0]),
    "20": _node("PrimitiveNode", value=3),
    "21": _node("StringConcatenate", string_a="a cat", string_b="b", delimiter=", "),
}
RECORD = PanelRecord(
    prompt="a cat",
    negative_prompt="blurry",
    seed=3,
    width=SIDE,
    height=SIDE,
    steps=2,
    guidance_scale=4.5,
    precision="fp32",
    base=BaseRecord(name="mini", family="kolors", pipeline="KolorsPipeline", fingerprint="f" * 64),
    lora=LoraRecord(digest="a" * 64),
    drawn=DrawnRecord(
        batch=1, row=0, text_length=77, vae_tiling=False, file="panel-1.png", bytes=80
    ),
)


def mutated_text(rng: random.Random, content: object) -> str:
    """``content`` with an odd value, or its text with letters changed."""
    if isinstance(content, dict) and rng.random() < 0.6:
        content = json.loads(json.dumps(content))
        for _ in range(rng.randint(1, 3)):
            put_odd(rng, content)
        return json.dumps(content)
    text = content if isinstance(content, str) else json.dumps(content)
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice([0, 1, 5, 50]))
    signs = ("", text[start:end] * 200, '"', "{", "[" * 3000, "\n", "\\", ",", "a" * 50_000, "：")
    return text[:start] + rng.choice(signs) + text[end:]


def put_odd(rng: random.Random, content: object) -> str:
    """Put an odd value, or none, somewhere into JSON; returns where."""
    where = []
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        if not keys:
            return ".".join(where)
        key = rng.choice(list(keys))
        where.append(str(key))
        inner = content[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
            content = inner
            continue
        if rng.random() < 0.2:
            del content[key]
        else:
            content[key] = rng.choice(ODD_VALUES)
        return ".".join(where)[:80]


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """``content`` flipped, cut, zeroed or repeated somewhere."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice([1, 4, 40, 400]))
        kind = rng.randrange(4)
        if kind == 0:
            changed[start:end] = bytes(rng.randrange(256) for _ in range(end - start))
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:end] = bytes(end - start)
        else:
            changed[start:start] = changed[start:end] * 3
    return bytes(
        changed[: rng.choice([len(changed), len(changed), rng.randrange(len(changed) + 1)])]
    )
