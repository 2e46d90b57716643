"""Bytes, JSON and safetensors files spoilt at random."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

ODD = (
    None,
    True,
    -1,
    0,
    1,
    7,
    0.5,
    10**6,
    10**9,
    10**30,
    "",
    "x",
    "../../secret",
    [],
    [0],
    [1, "x"],
    {},
    {"a": {"b": 1}},
    [1] * 200,
    float("nan"),
    float("inf"),
    -0.1,
)
LENGTH_BYTES = 8


def links(source: Path, target: Path) -> Path:
    """A folder at ``target`` whose files are links to those of ``source``."""
    for path in source.rglob("*"):
        if path.is_file():
            link = target / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return target


def own(path: Path) -> Path:
    """``path``, with a copy in the place of a link."""
    if path.is_symlink():
        source = path.resolve()
        path.unlink()
        shutil.copy(source, path)
    return path


def spoil_bytes(rng: random.Random, path: Path) -> str:
    """Change the bytes of a file, or what stands at its path; returns what was done."""
    content = bytearray(own(path).read_bytes())
    kind = rng.choice(list(BYTES))
    changed = BYTES[kind](rng, content)
    if changed is not None:
        path.write_bytes(changed)
        return f"{path.name} {kind}"

    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a dead link":
        path.symlink_to(path.with_name("nowhere"))
    return f"{path.name} {kind}"


def _flip(rng: random.Random, content: bytearray) -> bytes:
    start = rng.choice((len(content), min(len(content), 200)))
    for _ in range(rng.choice((1, 3, 50))):
        content[rng.randrange(max(start, 1))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _zero(rng: random.Random, content: bytearray) -> bytes:
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((1, 100, len(content))))
    content[start:stop] = bytes(stop - start)
    return bytes(content)


def _repeat(rng: random.Random, content: bytearray) -> bytes:
    start = rng.randrange(len(content))
    return bytes(content[: start + 100] + content[start:])


BYTES: dict[str, Callable] = {
    "flipped": _flip,
    "zeroed": _zero,
    "repeated": _repeat,
    "cut": lambda rng, content: bytes(content[: rng.randrange(len(content))]),
    "empty": lambda rng, content: b"",
    "longer": lambda rng, content: bytes(content) + bytes(rng.choice((1, 9, 4096))),
    "a web page": lambda rng, content: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer": lambda rng, content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "gone": lambda rng, content: None,
    "a folder": lambda rng, content: None,
    "a pipe": lambda rng, content: None,
    "a dead link": lambda rng, content: None,
}


def spoil_json(rng: random.Random, path: Path) -> str:
    """Change a value, a key or the form of a JSON file; returns what was done."""
    text = own(path).read_text(encoding="utf-8")
    content = json.loads(text)
    kind = rng.choice(("value", "value", "value", "gone", "new key", *FORMS))
    if kind in FORMS:
        path.write_bytes(FORMS[kind](text))
        return f"{path.name} {kind}"

    inside = content
    nested = [each for each in content.values() if isinstance(each, dict) and each]
    if nested and rng.random() < 0.5:
        inside = rng.choice(nested)
    key = rng.choice(sorted(inside))
    if kind == "gone":
        del inside[key]
    elif kind == "new key":
        key = rng.choice(NEW_KEYS)
        inside[key] = rng.choice(ODD)
    elif isinstance(inside[key], list) and inside[key] and rng.random() < 0.5:
        inside[key][rng.randrange(len(inside[key]))] = rng.choice(ODD)
    else:
        inside[key] = rng.choice(ODD)
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{path.name} `{key}` {kind} {str(inside.get(key))[:40]}"


NEW_KEYS = (
    "auto_map",
    "quantization_config",
    "num_class_embeds",
    "class_embed_type",
    "transformer_layers_per_block",
    "num_hidden_layers",
    "latents_mean",
    "trained_betas",
    "_name_or_path",
    "\ud800",
)
FORMS: dict[str, Callable[[str], bytes]] = {
    "as UTF-16": lambda text: text.encode("utf-16"),
    "with a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "null": lambda text: b"null",
    "a list": lambda text: b"[" + text.encode() + b"]",
    "a text": lambda text: b'"x"',
    "deep": lambda text: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep lists": lambda text: b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long": lambda text: b'{"a": "' + b"x" * (40 * 2**20) + b'"}',
    "a long number": lambda text: b'{"a": ' + b"9" * 5000 + b"}",
    "a key twice": lambda text: text.rstrip().rstrip("}").encode() + b', "a": 1, "a": 2}',
    "not UTF-8": lambda text: text.encode().replace(b'"', b'"\xff', 1),
}


def spoil_safetensors(rng: random.Random, path: Path) -> str:
    """Change the header of a safetensors file; returns what was done."""
    content = own(path).read_bytes()
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])
    body = content[LENGTH_BYTES + length :]

    name = rng.choice([each for each in header if each != "__metadata__"])
    other = rng.choice([each for each in header if each != "__metadata__"])
    kind = rng.choice(list(HEADERS))
    HEADERS[kind](rng, header, name, other)
    written = json.dumps(header).encode()
    if kind == "a tensor twice":
        written = written[:-1] + b", " + json.dumps({name: header[name]}).encode()[1:]
    length = rng.choice((0, 1, 2**40, 2**63)) if kind == "another length" else len(written)
    path.write_bytes(length.to_bytes(LENGTH_BYTES, "little") + written + body)
    return f"{path.name} {kind} {name[:40]}"


def _set(key: str, values: Callable) -> Callable:
    def change(rng: random.Random, header: dict, name: str, other: str) -> None:
        header[name][key] = values(rng, header[name][key], header[other][key])

    return change


def _delete(rng: random.Random, header: dict, name: str, other: str) -> None:
    del header[name]


def _rename(rng: random.Random, header: dict, name: str, other: str) -> None:
    header[rng.choice(("x", name + "x", "\ud800", "", "lora_unet_x.alpha"))] = header.pop(name)


def _add(rng: random.Random, header: dict, name: str, other: str) -> None:
    header["extra"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _metadata(rng: random.Random, header: dict, name: str, other: str) -> None:
    header["__metadata__"] = rng.choice((None, [], "x", {"a": 1}, {"a": None}))


def _entry(rng: random.Random, header: dict, name: str, other: str) -> None:
    header[name] = rng.choice((None, [], {}, "x", 1, {"dtype": "F32"}))


def _nothing(rng: random.Random, header: dict, name: str, other: str) -> None:
    """``another length`` and ``a tensor twice`` change what is written."""


HEADERS: dict[str, Callable] = {
    "dtype": _set("dtype", lambda rng, own, other: rng.choice(("I32", "U8", "F64", "C64", "X", 5))),
    "8 bits": _set("dtype", lambda rng, own, other: rng.choice(("F8_E4M3", "I8", "BOOL"))),
    "integers": _set("dtype", lambda rng, own, other: "I32" if own == "F32" else "I16"),
    "shape": _set(
        "shape", lambda rng, own, other: rng.choice((other, own[::-1], [-1], [2**62] * 3))
    ),
    "odd shape": _set("shape", lambda rng, own, other: rng.choice(ODD)),
    "offsets": _set("data_offsets", lambda rng, own, other: other),
    "odd offsets": _set("data_offsets", lambda rng, own, other: [own[0], rng.choice(ODD)]),
    "swapped offsets": _set("data_offsets", lambda rng, own, other: own[::-1]),
    "a gap": _set("data_offsets", lambda rng, own, other: [own[0] + 8, own[1] + 8]),
    "deleted": _delete,
    "renamed": _rename,
    "added": _add,
    "metadata": _metadata,
    "entry": _entry,
    "another length": _nothing,
    "a tensor twice": _nothing,
}
