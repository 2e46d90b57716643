"""Which files of a hub's repository are used: configs, vocabularies, weights in one precision."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from storyboard.errors import BaseError
from storyboard.models.tokenizer_files import VOCABULARIES

INDEX = ("model_index.json",)  # what a base is known by
CONFIGS = {".json", ".txt", ".model"}
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:\.safetensors\.index)?(\.fp16)?(?:-\d+-of-\d+)?"
    r"\.(?:safetensors|json)"
)
SHARD = re.compile(r"-(\d+)-of-(\d+)\.")


def files_of_base(
    sizes: Mapping[str, int], components: Sequence[str], configs_only: bool = False
) -> list[str]:
    """Configs, tokenizers and each component's weights of a diffusers folder, sorted.

    Args:
        sizes: Bytes by name, as the hub lists them.

    Raises:
        BaseError: A component has no whole safetensors weights there, or a config or vocabulary is
            not listed.
    """
    encoders = [component for component in components if component.startswith("text_encoder")]
    tokenizers = [component.replace("text_encoder", "tokenizer") for component in encoders]
    folders = {*components, *tokenizers, "scheduler"}
    wanted = [
        name
        for name in sizes
        if name in INDEX or (name.rpartition("/")[0] in folders and _is_config(name))
    ]
    if not configs_only:
        for component in components:
            advice = f"{component}: set base to a folder that holds them"
            wanted += _weights(sizes, f"{component}/", advice)

    check_listed(sizes, (*INDEX, *(f"{component}/config.json" for component in components)))
    for tokenizer in tokenizers:
        if not any(f"{tokenizer}/{name}" in sizes for name in VOCABULARIES):
            raise BaseError(f"it does not list a vocabulary in {tokenizer}")
    return sorted(wanted)


def files_of_module(sizes: Mapping[str, int]) -> list[str]:
    """Configs and weights at the top of the repository of one model.

    Raises:
        BaseError: It has no whole safetensors weights there, or no config.
    """
    weights = _weights(sizes, "", "it: name a folder or an id that holds them")
    check_listed(sizes, ("config.json",))
    return sorted([name for name in sizes if "/" not in name and _is_config(name)] + weights)


def files_of_part(sizes: Mapping[str, int], part: str) -> list[str]:
    """Everything in the folder ``part`` that a safetensors model is read from.

    Raises:
        BaseError: It has no ``model.safetensors``.
    """
    check_listed(sizes, (f"{part}/model.safetensors",))
    suffixes = CONFIGS | {".safetensors"}
    return [name for name in sizes if name.startswith(f"{part}/") and Path(name).suffix in suffixes]


def is_inside(name: str) -> bool:
    """Whether a listed name is that of a file below the folder of its repository."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def check_listed(sizes: Mapping[str, int], names: Sequence[str]) -> None:
    """Raise BaseError unless the hub lists all ``names``."""
    for name in names:
        if name not in sizes:
            raise BaseError(f"it does not list {name}")


def _is_config(name: str) -> bool:
    return Path(name).suffix in CONFIGS and "safetensors" not in name


def _weights(sizes: Mapping[str, int], prefix: str, owner: str) -> list[str]:
    """The safetensors weights whose names are ``prefix`` and a usual one, every shard of them.

    In fp16 where there are both.

    Raises:
        BaseError: There are none, or a shard is not listed.
    """
    variants = {}
    for name in sizes:
        usual = WEIGHTS.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if usual:
            variants[name] = usual[1]

    weights = [name for name, variant in variants.items() if variant] or list(variants)
    if not any(name.endswith(".safetensors") for name in weights):
        raise BaseError(f"The hub has no safetensors weights for {owner}.")

    for name in weights:
        if shard := SHARD.search(name):
            check_listed(sizes, _shards(name, shard))
    return weights


def _shards(name: str, shard: re.Match) -> list[str]:
    """Names of all shards of which ``name`` is one."""
    width, count = len(shard[1]), int(shard[2])
    before, after = name[: shard.start(1)], name[shard.end(1) :]
    return [f"{before}{number:0{width}d}{after}" for number in range(1, count + 1)]
