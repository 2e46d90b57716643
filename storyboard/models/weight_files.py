"""The safetensors files of one model: which they are, and whether they are whole."""

from pathlib import Path

from storyboard.errors import BaseError, brief
from storyboard.models import configs
from storyboard.models.safetensors_header import read_header

STEMS = ("model", "diffusion_pytorch_model")
VARIANTS = ("", ".fp16")  # full precision where there are both
SUFFIX = ".safetensors"
LONGEST_NAME = 255  # bytes that a file system takes


def find_weights(folder: Path, title: str, remedy: str) -> list[Path]:
    """The safetensors files in ``folder``: one or several shards, in full precision if possible.

    Args:
        title, remedy: What lacks them, and what to do about it, for the message.

    Raises:
        BaseError: There are none, a shard is missing, or the index names anything but files beside
            it.
    """
    for variant in VARIANTS:
        for stem in STEMS:
            index = folder / f"{stem}{SUFFIX}.index{variant}.json"
            if index.is_file():
                names = sorted(set(_weight_map(index, remedy).values()))
                shards = [folder / name for name in names]
                for shard in shards:
                    if not shard.is_file():
                        raise BaseError(f"{title} lacks {shard}: {remedy}.")
                return shards

            path = folder / f"{stem}{variant}{SUFFIX}"
            if path.is_file():
                return [path]
    raise BaseError(f"{title} lacks safetensors weights in {folder}: {remedy}.")


def read_headers(paths: list[Path], remedy: str = "get it again") -> dict[str, dict]:
    """The headers of one model's files as one; entries as ``read_header`` gives them.

    Raises:
        BaseError: A file is not whole, or holds a tensor that another one holds.
    """
    holders: dict[str, Path] = {}
    tensors = {}
    for path in paths:
        for name, entry in read_header(path).items():
            if name in holders:
                raise BaseError(
                    f"{path} holds the tensor {brief(name)}, which {holders[name].name} "
                    f"holds too: {remedy}."
                )
            holders[name] = path
            tensors[name] = entry
    return tensors


def _weight_map(index: Path, remedy: str) -> dict[str, str]:
    """Tensor -> file, all of them beside ``index``.

    Raises:
        BaseError: It is damaged, or names a file elsewhere.
    """
    files = configs.read(index, remedy).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise BaseError(f"{index} has no weight_map of tensors and files: {remedy}.")
    for name in files.values():
        if not _is_plain(name):
            raise BaseError(
                f"{index} names the file {brief(name)}, where only safetensors files beside it "
                f"are read: {remedy}."
            )
    return files


def _is_plain(name: object) -> bool:
    """Whether it is the name of a safetensors file without a folder."""
    if not isinstance(name, str) or not name.isprintable() or not name.endswith(SUFFIX):
        return False
    return not set("/\\") & set(name) and len(name.encode()) <= LONGEST_NAME
