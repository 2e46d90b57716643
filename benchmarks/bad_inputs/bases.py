"""Folders and files of base models, ControlNets and caches that are damaged or odd."""

import atexit
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.bad_inputs import Wrong
from benchmarks.bad_inputs.base_files import (
    links,
    own,
    spoil_bytes,
    spoil_json,
    spoil_safetensors,
)
from storyboard import resources
from storyboard.models import bases, conditioning, download, loading, weights
from storyboard.models.hubs import HubModel
from storyboard.models.run import Run, run_on
from storyboard.models.tokenizing import tokenizer
from storyboard.rendering import controlnet, sampling
from storyboard.settings import Settings

PROMPTS = ("a cat", "二次元，(紫色:1.3)")
SIDE = 64  # pixels of what is drawn
SCHEDULE = (
    "_class_name",
    "prediction_type",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "num_train_timesteps",
    "trained_betas",
    "rescale_betas_zero_snr",
    "use_flow_sigmas",
)
SCHEDULE_VALUES = (
    "EDMEulerScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "CogVideoXDDIMScheduler",
    "sample",
    "flow_prediction",
    "linear",
    "squaredcos_cap_v2",
    [0.1] * 1000,
    ["x"],
    {},
    True,
    -1,
    0,
    1e9,
    2,
    "0.01",
    None,
)
NAMES = (
    "",
    " ",
    "\0",
    "x" * 5000,
    "~nobody/base",
    "../" * 400,
    "a/b/c",
    "-",
    "kolors ",
    "http://x/y",
    "\ud800",
    "图/模型",
)


def make(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """One bad input below ``folder``: what it is in a few words, and the call that must handle it.

    The call opens a base as training and drawing do, or reads what an earlier run kept.
    """
    return rng.choice(KINDS)(rng, folder)


def _spoilt(rng: random.Random, folder: Path, source: Path) -> tuple[str, Path]:
    """A copy of the model in ``source`` with one file spoilt."""
    target = links(source, folder / "base")
    suffixes = {".json", ".safetensors", ".model", ".txt"}
    files = sorted(path for path in target.rglob("*") if path.suffix in suffixes)
    path = rng.choice(files)
    ways = [spoil_bytes]
    ways += [spoil_json] * 3 if path.suffix == ".json" else []
    ways += [spoil_safetensors] * 3 if path.suffix == ".safetensors" else []
    what = rng.choice(ways)(rng, path)
    return f"{path.parent.name}/{what}", target


def _mini(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    what, target = _spoilt(rng, folder, bases.get("mini").root)
    return f"mini with {what}", lambda: _draw(target, folder)


def _clip(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    what, target = _spoilt(rng, folder, _tiny_sd15())
    return f"SD 1.5 with {what}", lambda: _draw(target, folder)


def _config(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Configs are where most values are."""
    target = links(rng.choice((bases.get("mini").root, _tiny_sd15())), folder / "base")
    path = rng.choice(sorted(target.rglob("config.json")))
    what = spoil_json(rng, path)
    return f"{path.parent.name}/{what}", lambda: _draw(target, folder)


def _schedule(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    target = links(_tiny_sd15(), folder / "base")
    path = own(target / "scheduler" / "scheduler_config.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    key = rng.choice(SCHEDULE)
    content[key] = rng.choice(SCHEDULE_VALUES)
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"schedule `{key}` {str(content[key])[:40]}", lambda: _draw(target, folder)


def _index(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Shards by an index that names the wrong files or tensors."""
    target = links(bases.get("mini").root, folder / "base")
    path = target / "text_encoder" / "model.safetensors"
    shard = path.with_name("model-00001-of-00001.safetensors")
    path.rename(shard)
    with safe_open(shard, "pt") as file:
        files = dict.fromkeys(file.keys(), shard.name)
    name = rng.choice(sorted(files))
    odd = (
        "../unet/diffusion_pytorch_model.safetensors",
        "/etc/passwd",
        "..",
        "",
        None,
        5,
        ["x"],
        "gone.safetensors",
        "\0.safetensors",
        "x" * 400 + ".safetensors",
        "C:\\model.safetensors",
    )
    change = rng.choice(("file", "file", "tensor", "empty", "type", "json"))
    if change == "file":
        files[name] = rng.choice(odd)
    elif change == "tensor":
        files["strange"] = shard.name
    elif change == "empty":
        files = {}
    index = target / "text_encoder" / "model.safetensors.index.json"
    content = {"metadata": {}, "weight_map": [name] if change == "type" else files}
    index.write_text(json.dumps(content), encoding="utf-8")
    if change == "json":
        change = spoil_json(rng, index)
    return f"index {change} {str(files.get(name))[:40]}", lambda: _draw(target, folder)


def _controlnet(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    what, target = _spoilt(rng, folder, resources.path("models") / "mini-controlnet")

    def check() -> None:
        controlnet.check(bases.get("mini"), target)
        controlnet.load(target, torch.float32)

    return f"ControlNet with {what}", check


def _single(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    path = folder / "anime.safetensors"
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "cond_stage_model.transformer.text_model.a": torch.zeros(3),
        "first_stage_model.b": torch.zeros(2),
    }
    facts = {"modelspec.prediction_type": rng.choice(("epsilon", "v", "flow", "", "x" * 5000))}
    save_file(tensors, path, metadata=facts)
    what = rng.choice((spoil_bytes, spoil_safetensors, spoil_safetensors))(rng, path)
    return f"single file {what}", lambda: bases.get(str(path))


def _name(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    name = rng.choice(NAMES)
    if rng.random() < 0.5:
        return f"`base` {name[:20]!r}", lambda: bases.get(name)
    return f"`weights` {name[:20]!r}", lambda: weights.fetch_module(name, "The model of weights")


def _kept(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Embeddings of an earlier run that are damaged: they are made again, and the same."""
    run = _run_of(bases.get("mini"), folder)
    expected = conditioning.encode(run, PROMPTS)
    paths = sorted((folder / "cache" / "text").rglob("*.safetensors"))
    path = rng.choice(paths)
    if rng.random() < 0.2:
        other = next(each for each in paths if each != path)
        shutil.copy(other, path)
        what = "another's"
    elif rng.random() < 0.3:
        tensors = {name: tensor + 1 for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"chunks": "[]"})
        what = "of other numbers"
    else:
        what = rng.choice((_flipped, spoil_safetensors))(rng, path)

    def encode() -> None:
        found = conditioning.encode(run, PROMPTS)
        for prompt in PROMPTS:
            if not torch.equal(found[prompt].tokens, expected[prompt].tokens):
                raise Wrong(f"the embedding of {prompt} is another")

    return f"kept embedding {what}", encode


def _flipped(rng: random.Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])
    return "flipped or cut"


def _note(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """What an earlier download noted of itself is damaged: it is as if there were none."""
    model = HubModel("someone/model")
    content = rng.choice(
        (b"", b"\xff\xfe", b"\0", b"/nowhere\n", b"/etc\n5 passwd\n", b"x\ny\n", b"9" * 6000)
    )

    def look() -> None:
        keep = {name: os.environ.pop(name, None) for name in (download.CACHE, download.LOCAL_ROOT)}
        os.environ[download.CACHE] = str(folder)
        try:
            (folder / "someone--model.txt").write_bytes(content)
            if found := download.local(model, ("config.json",)):
                raise Wrong(f"a model is said to be in {found}")
        finally:
            del os.environ[download.CACHE]
            os.environ |= {name: value for name, value in keep.items() if value is not None}

    return f"note of a download {content[:20]!r}", look


KINDS = (
    *[_mini] * 2,
    *[_clip] * 3,
    *[_config] * 2,
    _schedule,
    _index,
    _controlnet,
    _single,
    _name,
    _kept,
    _note,
)


def _run_of(base: bases.Base, folder: Path) -> Run:
    settings = Settings(base="mini", output=str(folder), resolution=SIDE, precision="fp32")
    return run_on(base, settings)


def _draw(target: Path, folder: Path) -> None:
    """Open the base at ``target``, encode a prompt and draw a step."""
    base = weights.fetch(bases.get(str(target)))
    loading.check_layouts(base)
    for component in base.components:
        if component.startswith("text_encoder"):
            tokenizer(base, component)
    run = _run_of(base, folder)
    (embedding,) = conditioning.encode(run, PROMPTS[:1]).values()
    pipe = sampling.load_pipeline(base, run.plan)
    pictures = sampling.draw(pipe, [embedding], [embedding], [1], SIDE, 1, 1.0)
    for _ in pictures:
        pass


@cache
def _tiny_sd15() -> Path:
    """SD 1.5 with its files and no size, once in a process."""
    from tests import tiny

    root = Path(tempfile.mkdtemp(prefix="storyboard-bases-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return tiny.build("sd15", root)
