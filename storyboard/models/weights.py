"""A base's weights, at hand before anything needs them: in the repository, in a folder, in one file, or fetched from a hub."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import BaseError, ResourceError
from storyboard.models import download
from storyboard.models.base import VOCABULARIES
from storyboard.models.bases import Base
from storyboard.models.download import HubModel

LOCAL_ROOT = "STORYBOARD_HUB"  # environment variable: a folder laid out as <owner>/<name>, read instead of the network
CACHE = "STORYBOARD_CACHE"  # environment variable: where fetched places are noted and converted checkpoints lie
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:\.safetensors\.index)?(\.fp16)?(?:-\d+-of-\d+)?\.(?:safetensors|json)"
)
CONFIGS = {".json", ".txt", ".model"}
INDEX = ("model_index.json",)  # what a base is known by


def fetch(base: Base) -> Base:
    """``base`` with its ``folder`` filled in and checked; downloads, or converts a single file, what is not there yet.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    if base.folder is None:
        root = cache()
        if base.checkpoint:
            from storyboard.models import single_file

            folder = single_file.place(base, root)
            if not (folder / "model_index.json").is_file():
                single_file.convert(base, _configs(base, single_file.lacking(base)), folder)
        else:
            folder = _from_hubs(
                base.title, _published(base), lambda files: chosen(files, base.components), INDEX
            )
        base = replace(base, folder=folder)
    base.check()
    return base


def _configs(base: Base, lacking: tuple[str, ...]) -> Path:
    """Folder of the configs and tokenizers of what a checkpoint is built on, with the weights of the components it lacks."""

    def choose(files: dict[str, int]) -> list[str]:
        weights = chosen(files, lacking) if lacking else []
        return sorted({*chosen(files, base.components, configs_only=True), *weights})

    return _from_hubs(base.title, _published(base), choose, INDEX, whole=False)


def _published(base: Base) -> HubModel:
    return HubModel(base.modelscope, base.huggingface)


def present(base: Base) -> bool:
    """Whether ``fetch`` would find everything on this machine."""
    if base.folder:
        return True
    if base.checkpoint:
        from storyboard.models import single_file

        return (single_file.place(base, cache()) / "model_index.json").is_file()
    return _local(_published(base), INDEX) is not None


def disk(base: Base) -> tuple[Path, int, str] | None:
    """Where ``fetch`` would write what is not present, how many bytes, and the variable that names another place."""
    if present(base):
        return None
    if base.checkpoint:
        return cache(), base.checkpoint.stat().st_size, CACHE
    if base.modelscope:
        folder, cached, variable = (
            download.modelscope_folder(base.modelscope),
            download.modelscope_cache(),
            "MODELSCOPE_CACHE",
        )
    else:
        folder, cached, variable = (
            download.huggingface_folder(base.huggingface),
            download.huggingface_cache(),
            "HF_HOME",
        )
    return cached, max(base.download - download.fetched(folder), 0), variable


def fetch_module(model: str | Path | HubModel, title: str, names: tuple[str, ...] = ()) -> Path:
    """The folder of one model beside the base, such as a ControlNet: ``model`` itself if that is a folder, else the hubs'.

    Args:
        model: A folder, a record, or an id, which may end in ``@`` and a revision, as Hugging Face has them.
        names: Files to fetch; none: ``config.json`` and the like and the weights beside it.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    needed = names or ("config.json",)
    if isinstance(model, HubModel) or not (folder := Path(model).expanduser()).is_dir():
        choose = (lambda files: _listed(files, names)) if names else chosen_module
        folder = _from_hubs(title, HubModel.of(model), choose, needed)
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise BaseError(
            f"The folder {folder} of {title} lacks {missing[0]}: get it whole, or name another folder or id."
        )
    return folder


def fetch_part(model: str | HubModel, part: str, title: str) -> Path:
    """The folder ``part`` in the hubs' repository ``model``: its weights in safetensors, configs and vocabularies.

    Raises:
        BaseError: No hub has it, or what stands in for the hub lacks it.
        ResourceError: The disk is too small.
    """
    needed = (f"{part}/model.safetensors",)

    def choose(files: dict[str, int]) -> list[str]:
        _listed(files, needed)
        return [
            name
            for name in files
            if name.startswith(f"{part}/") and Path(name).suffix in CONFIGS | {".safetensors"}
        ]

    folder = _from_hubs(title, HubModel.of(model), choose, needed)
    if not (folder / needed[0]).is_file():
        raise BaseError(f"{title} is not there: {folder} lacks {needed[0]}.")
    return folder / part


def cache() -> Path:
    """Where converted checkpoints lie and fetched folders are noted."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "storyboard").expanduser()


def _local(model: HubModel, needed: Sequence[str]) -> Path | None:
    """A folder that stands in for the hubs, or the one that an earlier call fetched and that holds the files ``needed``."""
    if root := os.environ.get(LOCAL_ROOT):
        folders = [Path(root).expanduser() / name for name in model.ids]
        if found := next((folder for folder in folders if folder.is_dir()), None):
            return found
        ids = " or ".join(model.ids)
        raise BaseError(
            f"{LOCAL_ROOT} holds no {ids}: put it at {folders[0]} or unset {LOCAL_ROOT} to use the network."
        )
    note = _note(model)
    folder = Path(note.read_text(encoding="utf-8").strip()) if note.is_file() else None
    return folder if folder and all((folder / name).is_file() for name in needed) else None


def _note(model: HubModel) -> Path:
    """The file that says where an earlier call put ``model``."""
    return cache() / f"{str(model).replace('/', '--')}.txt"


def _from_hubs(
    title: str,
    model: HubModel,
    choose: Callable[[dict[str, int]], list[str]],
    needed: Sequence[str],
    whole: bool = True,
) -> Path:
    """Download from the first hub that has it; only the files that ``choose`` takes, their size printed before.

    Args:
        choose: Takes sizes by name; raises BaseError where a hub does not list what is wanted.
        needed: Files that a folder fetched earlier must hold to be used.
        whole: A folder that is ready for use, so that its place is noted.
    """
    if folder := _local(model, needed):
        return folder
    failed = []
    for hub in download.hubs(model):
        try:
            folder = _from_hub(title, hub, choose, "base" if needed == INDEX else "weights")
        except (*download.failures(), BaseError) as error:
            if download.disk_is_full(error):
                said = f"The disk of {hub.cache} became full while {title} was fetched"
                raise ResourceError(
                    f"{said}: free some space and run this cell again, it goes on where it broke off."
                ) from error
            kind = "" if isinstance(error, BaseError) else type(error).__name__
            failed.append(
                f"{hub.name}: {kind} {_first_line(error).rstrip('.')}".strip().replace(":  ", ": ")
            )
            continue
        if whole:
            cache().mkdir(parents=True, exist_ok=True)
            artifacts.write_atomically(_note(model), f"{folder}\n")
        return folder
    mirror = (
        ""
        if model.modelscope
        else ", set HF_ENDPOINT to a mirror of Hugging Face, which alone is known to have it"
    )
    said = f"{title} could not be fetched ({'; '.join(failed)})"
    raise BaseError(
        f"{said}: check the network and run this cell again, it goes on where it broke off{mirror}, or name a folder that holds it."
    )


def _from_hub(
    title: str, hub: download.Hub, choose: Callable[[dict[str, int]], list[str]], kind: str
) -> Path:
    """The folder at which ``hub`` put the files that ``choose`` takes of its list."""
    files = hub.files()
    sizes = {name: files[name] for name in choose(files)}
    size = sum(sizes.values())
    some = "" if all(sizes.values()) else "at least "
    print(
        f"{kind}: {title} from {hub.name} ({hub.model}), {len(sizes)} files, {some}{size / 1e9:.1f} GB",
        flush=True,
    )
    if missing := artifacts.free_space_needed(hub.cache, hub.missing(sizes)):
        said = f"{title} is {size / 1e9:.1f} GB, {missing / 1e9:.1f} GB more than the disk of {hub.cache} has free"
        raise ResourceError(
            f"{said}: free some space, or set MODELSCOPE_CACHE and HF_HOME to another disk."
        )
    folder = hub.download(list(sizes))
    wrong = [name for name, size in sizes.items() if not _came(folder / name, size)]
    if wrong:
        raise BaseError(
            f"{folder / wrong[0]} is not of the {sizes[wrong[0]]} bytes that {hub.name} lists: delete it and run this cell again."
        )
    return folder


def _came(path: Path, size: int) -> bool:
    """Whether the file is there and of the size that the hub lists, if it lists one."""
    return path.is_file() and size in (0, path.stat().st_size)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _listed(files: dict[str, int], names: Sequence[str]) -> list[str]:
    """``names``, all of which a hub must list.

    Raises:
        BaseError: One is not listed.
    """
    if missing := [name for name in names if name not in files]:
        raise BaseError(f"it does not list {missing[0]}")
    return list(names)


def chosen(
    files: dict[str, int], components: tuple[str, ...], configs_only: bool = False
) -> list[str]:
    """Of a repository's files those that are used: configs, tokenizers, and each component's weights once, fp16 first.

    Raises:
        BaseError: A component has no whole safetensors weights there, or a config or vocabulary is not listed.
    """
    encoders = [component for component in components if component.startswith("text_encoder")]
    tokenizers = [component.replace("text_encoder", "tokenizer") for component in encoders]
    folders = {*components, *tokenizers, "scheduler"}
    wanted = [
        name
        for name in files
        if name in INDEX or (name.rpartition("/")[0] in folders and _is_config(name))
    ]
    for component in () if configs_only else components:
        wanted += _smallest(
            files, f"{component}/", f"{component}: set base to a folder that holds them"
        )
    _listed(files, (*INDEX, *(f"{component}/config.json" for component in components)))
    for tokenizer in tokenizers:
        if not any(f"{tokenizer}/{name}" in files for name in VOCABULARIES):
            raise BaseError(f"it does not list a vocabulary in {tokenizer}")
    return sorted(wanted)


def chosen_module(files: dict[str, int]) -> list[str]:
    """Of the repository of one model the configs and the weights at its top, fp16 first.

    Raises:
        BaseError: It has no whole safetensors weights there, or no config.
    """
    weights = _smallest(files, "", "it: name a folder or an id that holds them")
    _listed(files, ("config.json",))
    return sorted([name for name in files if "/" not in name and _is_config(name)] + weights)


def _is_config(name: str) -> bool:
    return Path(name).suffix in CONFIGS and "safetensors" not in name


def _smallest(files: dict[str, int], prefix: str, whose: str) -> list[str]:
    """The safetensors weights whose names are ``prefix`` and a usual one, in fp16 where there are both, every shard of them.

    Raises:
        BaseError: There are none, or a shard is not listed.
    """
    usual = {
        name: WEIGHTS.fullmatch(name.removeprefix(prefix))
        for name in files
        if name.startswith(prefix)
    }
    weights = {name: found[1] for name, found in usual.items() if found}
    smallest = [name for name, variant in weights.items() if variant] or list(weights)
    if not any(name.endswith(".safetensors") for name in smallest):
        raise BaseError(f"The hub has no safetensors weights for {whose}.")
    for name in smallest:
        if shard := re.search(r"-(\d+)-of-(\d+)\.", name):
            width, count = len(shard[1]), int(shard[2])
            _listed(
                files,
                [
                    f"{name[: shard.start(1)]}{n:0{width}d}{name[shard.end(1) :]}"
                    for n in range(1, count + 1)
                ],
            )
    return smallest
