"""Pictures of other tools, records, graphs and bundles that are damaged or of another form."""

import io
import json
import random
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin

from benchmarks.bad_inputs import Wrong
from benchmarks.bad_inputs.png_samples import (
    A1111,
    DREAM,
    FOOOCUS,
    GRAPH,
    INVOKE,
    INVOKE_2,
    NOVELAI,
    ODD_VALUES,
    RECORD,
    SIDE,
    SWARM,
    mutated_bytes,
    mutated_text,
    put_odd,
)
from storyboard import Story, publish
from storyboard.exporting import opened
from storyboard.exporting.bundle import zipped
from storyboard.exporting.comfyui import reading
from storyboard.exporting.comfyui.graph import workflow

Call = Callable[[], object]
TEXTS: dict[str, object] = {
    "parameters": A1111,
    "Dream": DREAM,
    "sd-metadata": INVOKE_2,
    "invokeai_metadata": INVOKE,
    "generation_data": {"prompt": "a cat", "negativePrompt": "x", "seed": "3"},
    "Comment": NOVELAI,
    "prompt": GRAPH,
    "storyboard": RECORD.model_copy(update={"drawn": None}).to_json(),
}


def make(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """One bad input below ``folder``: what it is in a few words, and the call that must handle or
    refuse it.
    """
    kinds = (_text, _text, _graph, _graph, _file, _comment, _bundle, _bundle, _zip, _workflow)
    return rng.choice(kinds)(rng, folder)


def _text(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A text of a tool with other values, or with letters changed."""
    name = rng.choice(list(TEXTS))
    content = TEXTS[name]
    if name == "parameters":
        content = rng.choice([A1111, FOOOCUS, SWARM])
    text = mutated_text(rng, content)
    return f"PNG text {name}: {text[:60]!r}", _read(_png(folder / "a.png", {name: text}))


def _graph(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A ComfyUI graph with other links, values and nodes."""
    graph = json.loads(json.dumps(GRAPH))
    numbers = list(graph)
    for _ in range(rng.randint(1, 6)):
        each = graph[rng.choice(numbers)]
        inputs = each.get("inputs")
        choice = rng.randrange(4)
        if choice == 0 and isinstance(inputs, dict) and inputs:
            inputs[rng.choice(list(inputs))] = [rng.choice(numbers), rng.randint(-1, 3)]
        elif choice == 1 and isinstance(inputs, dict) and inputs:
            inputs[rng.choice(list(inputs))] = rng.choice(ODD_VALUES)
        elif choice == 2:
            each[rng.choice(["inputs", "class_type", "_meta"])] = rng.choice(ODD_VALUES)
        else:
            each["class_type"] = rng.choice(["Reroute", "SaveImage", "KSampler", "Text", "Any"])
    text = json.dumps(graph)
    return f"ComfyUI graph {text[:60]}", _read(_png(folder / "a.png", {"prompt": text}))


def _file(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A picture with a text, its bytes damaged."""
    suffix = rng.choice(["png", "jpg", "webp"])
    path = folder / f"a.{suffix}"
    if suffix == "png":
        _png(path, {"parameters": A1111})
    else:
        _with_comment(path, b"UNICODE\0" + A1111.encode("utf-16-be"))
    path.write_bytes(mutated_bytes(rng, path.read_bytes()))
    return f"damaged {suffix}", _read(path)


def _comment(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """EXIF's user comment of any bytes."""
    content = rng.choice([A1111, json.dumps(SWARM), json.dumps(GRAPH), "x" * 3])
    encoding = rng.choice(["utf-8", "utf-16-be", "utf-16-le", "utf-16", "latin-1"])
    prefix = rng.choice([b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0" * 8, b"", b"UNI"])
    comment = prefix + content.encode(encoding)
    if rng.random() < 0.6:
        comment = mutated_bytes(rng, comment)
    path = _with_comment(folder / rng.choice(["a.jpg", "a.webp"]), comment)
    return f"user comment {prefix!r} {encoding}", _read(path)


def _bundle(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A bundle whose story.json has another value, or is damaged."""
    story = {"format": 2, "panels": [RECORD.to_json()]}
    if rng.random() < 0.7:
        where = put_odd(rng, story)
        text = json.dumps(story)
    else:
        text, where = mutated_text(rng, story), "letters"
    path = folder / "story.zip"
    path.write_bytes(zipped(_files(text.encode("utf-8", "replace"))))
    return f"story.json with another {where}", _call(rng, path)


def _zip(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A damaged zip, a bomb, or one with names that point outside."""
    path = folder / "story.zip"
    files = _files(json.dumps({"format": 2, "panels": [RECORD.to_json()]}).encode())
    kind = rng.choice(["bytes", "bytes", "bomb", "name", "link", "packing", "picture", "missing"])
    if kind == "missing":
        del files[rng.choice(list(files))]
    if kind == "picture":
        files["panel-1.png"] = mutated_bytes(rng, files["panel-1.png"])
    content = zipped(files)
    path.write_bytes(mutated_bytes(rng, content) if kind == "bytes" else content)
    if kind in ("bomb", "name", "link", "packing"):
        _add_entry(rng, path, kind)
    outside = folder.parent / "evil.png"

    def call() -> object:
        result = _call(rng, path)()
        if outside.exists():
            raise Wrong(f"{outside} was written")
        if kind in ("name", "link"):
            raise Wrong(f"a zip with a {kind} that points outside was read")
        return result

    return f"zip: {kind}", call


def _add_entry(rng: random.Random, path: Path, kind: str) -> None:
    names = ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:evil.png"]
    name = rng.choice(names) if kind == "name" else "extra.bin"
    entry = zipfile.ZipInfo(name)
    content = b"\0" * rng.choice([10, 50_000_000]) if kind == "bomb" else b"x"
    methods = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    entry.compress_type = rng.choice(methods) if kind in ("bomb", "packing") else 0
    if kind == "link":
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        content = b"/etc/passwd"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, content)


def _workflow(rng: random.Random, folder: Path) -> tuple[str, Call]:
    """A graph of our own with another value, or damaged, as JSON or in a PNG."""
    form = rng.choice(["api", "ui"])
    graph = json.loads(json.dumps(workflow([RECORD])[form]))
    if rng.random() < 0.7:
        where = put_odd(rng, graph)
        text = json.dumps(graph)
    else:
        text, where = mutated_text(rng, graph), "letters"
    if rng.random() < 0.5:
        path = folder / "workflow.json"
        path.write_text(text, encoding="utf-8", errors="replace")
    else:
        path = _png(folder / "workflow.png", {"prompt": text})
    return f"our graph ({form}) with another {where}", lambda: reading.read_story(path)


def _files(story: bytes) -> dict[str, bytes]:
    picture = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(picture, "PNG")
    names = ("README.md", "lora.safetensors", "panel-1.png", "story.json")
    return dict(zip(names, (b"x", b"x", picture.getvalue(), story), strict=True))


def _call(rng: random.Random, path: Path) -> Call:
    if rng.random() < 0.5:
        return lambda: opened.read(path)
    return lambda: publish(path, "me/story")


def _read(path: Path) -> Call:
    def call() -> object:
        story = Story.from_png(path)
        if not story[0].prompt.strip():
            raise Wrong("a story without a prompt")
        return story

    return call


def _png(path: Path, texts: dict[str, str]) -> Path:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        whole = text.encode("utf-8", "replace").decode()
        info.add_itxt(name, whole)
    Image.new("RGB", (SIDE, SIDE)).save(path, pnginfo=info)
    return path


def _with_comment(path: Path, comment: bytes) -> Path:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    Image.new("RGB", (SIDE, SIDE)).save(path, exif=exif)
    return path
