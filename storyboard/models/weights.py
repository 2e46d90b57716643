"""A base's weights, at hand before anything needs them.

They are in the repository, in a folder, in one file that is converted once, or fetched from a hub.
"""

import re
from dataclasses import replace
from pathlib import Path

from storyboard.errors import BaseError, brief
from storyboard.models import download, hubs, repository
from storyboard.models.bases import Base, existing
from storyboard.models.download import CACHE, cache
from storyboard.models.hubs import HubModel
from storyboard.models.repository import INDEX

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(?:@[\w./-]{1,200})?", re.ASCII)


def fetch(base: Base) -> Base:
    """``base`` with its ``folder`` filled in and checked.

    Downloads, or converts a single file, what is not there yet.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    if base.folder is None:
        folder = _converted(base) if base.checkpoint else _downloaded(base)
        base = replace(base, folder=folder)
    base.check()
    return base


def present(base: Base) -> bool:
    """Whether ``fetch`` would find everything on this machine."""
    if base.folder:
        return True
    if base.checkpoint:
        from storyboard.models import single_file

        return (single_file.converted_folder(base, cache()) / INDEX[0]).is_file()
    return download.local(_published(base), INDEX) is not None


def disk(base: Base) -> tuple[Path, int, str] | None:
    """Where ``fetch`` would write, how many bytes, and the variable that names another folder.

    None where everything is present.
    """
    if present(base):
        return None
    if base.checkpoint:
        return cache(), base.checkpoint.stat().st_size, CACHE
    if base.modelscope:
        folder = hubs.modelscope_folder(base.modelscope)
        location, variable = hubs.modelscope_cache(), "MODELSCOPE_CACHE"
    else:
        folder = hubs.huggingface_folder(base.huggingface)
        location, variable = hubs.huggingface_cache(), "HF_HOME"
    return location, max(base.download - hubs.fetched(folder), 0), variable


def fetch_module(model: str | Path | HubModel, title: str, names: tuple[str, ...] = ()) -> Path:
    """The folder of one further model, such as a ControlNet.

    It is ``model`` itself if that is a folder, else fetched from the hubs.

    Args:
        model: A folder, a record, or an id, which may end in ``@`` and a revision, as Hugging Face
            has them.
        title: What it is, for messages.
        names: Files to fetch; none: ``config.json`` and the like and the weights beside it.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """

    def choose(sizes: dict[str, int]) -> list[str]:
        if not names:
            return repository.files_of_module(sizes)
        repository.check_listed(sizes, names)
        return list(names)

    needed = names or ("config.json",)
    folder = None if isinstance(model, HubModel) else existing(model)
    if folder is None or not folder.is_dir():
        if not isinstance(model, HubModel) and not HUB_ID.fullmatch(str(model)):
            raise BaseError(
                f"{title} {brief(str(model))} is no folder here and no id at the hubs: "
                "name a folder, or owner/name."
            )
        folder = download.from_hubs(title, HubModel.of(model), choose, needed)
    for name in needed:
        if not (folder / name).is_file():
            raise BaseError(
                f"The folder {folder} of {title} lacks {name}: "
                "get it whole, or name another folder or id."
            )
    return folder


def fetch_part(model: str | HubModel, part: str, title: str) -> Path:
    """The folder ``part`` in the hubs' repository ``model``.

    Its weights in safetensors, configs and vocabularies are fetched.

    Raises:
        BaseError: No hub has it, or what stands in for the hub lacks it.
        ResourceError: The disk is too small.
    """

    def choose(sizes: dict[str, int]) -> list[str]:
        return repository.files_of_part(sizes, part)

    needed = (f"{part}/model.safetensors",)
    folder = download.from_hubs(title, HubModel.of(model), choose, needed)
    if not (folder / needed[0]).is_file():
        raise BaseError(f"{title} is not there: {folder} lacks {needed[0]}.")
    return folder / part


def _downloaded(base: Base) -> Path:
    def choose(sizes: dict[str, int]) -> list[str]:
        return repository.files_of_base(sizes, base.components)

    return download.from_hubs(base.title, _published(base), choose, INDEX, kind="base")


def _converted(base: Base) -> Path:
    """The diffusers folder of ``base.checkpoint``, which is converted where there is none yet."""
    from storyboard.models import single_file

    folder = single_file.converted_folder(base, cache())
    if not (folder / INDEX[0]).is_file():
        configs = _configs(base, single_file.missing_components(base))
        single_file.convert(base, configs, folder)
    return folder


def _configs(base: Base, missing: tuple[str, ...]) -> Path:
    """Folder of the configs and tokenizers of what a checkpoint is built on.

    With the weights of the components that it is ``missing``.
    """

    def choose(sizes: dict[str, int]) -> list[str]:
        configs = repository.files_of_base(sizes, base.components, configs_only=True)
        weights = repository.files_of_base(sizes, missing) if missing else []
        return sorted({*configs, *weights})

    return download.from_hubs(
        base.title, _published(base), choose, INDEX, kind="base", complete=False
    )


def _published(base: Base) -> HubModel:
    return HubModel(base.modelscope, base.huggingface)
