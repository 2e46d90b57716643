"""A base's weights, at hand before anything needs them: in the repository, in a folder, in one file, or fetched from a hub."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import artifacts
from .bases import Base
from .errors import BaseError, ResourceError
from .hub import LOCAL_ROOT

CACHE = "STORYBOARD_CACHE"  # environment variable: where fetched places are noted and converted checkpoints lie
WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.safetensors\.index)?(\.fp16)?(?:-\d+-of-\d+)?\.(?:safetensors|json)")
CONFIGS = {".json", ".txt", ".model"}


def fetch(base: Base) -> Base:
    """``base`` with its ``folder`` filled in and checked; downloads, or converts a single file, what is not there yet.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    if base.folder is None:
        root = cache()
        if base.checkpoint:
            from . import checkpoints

            folder = checkpoints.place(base, root)
            if not (folder / "model_index.json").is_file():
                lacking = checkpoints.lacking(base)
                wanted = lambda files: sorted({*chosen(files, base.components, True), *(chosen(files, lacking) if lacking else ())})
                checkpoints.convert(base, _from_hubs(base.title, base.modelscope, base.huggingface, wanted, whole=False), folder)
        else:
            folder = _from_hubs(base.title, base.modelscope, base.huggingface, lambda files: chosen(files, base.components))
        base = replace(base, folder=folder)
    base.check()
    return base


def present(base: Base) -> bool:
    """Whether ``fetch`` would find everything on this machine."""
    if base.folder:
        return True
    if base.checkpoint:
        from . import checkpoints

        return (checkpoints.place(base, cache()) / "model_index.json").is_file()
    return _local(base.modelscope) is not None


def fetch_module(model: str | Path, title: str, names: tuple[str, ...] = ()) -> Path:
    """The folder of one model beside the base, such as a ControlNet: ``model`` itself if that is a folder, else the hubs' of that id.

    Args:
        model: A folder or an id; an id may end in ``@`` and a revision, as Hugging Face has them.
        names: Files to fetch, the first of them sure to be there; none: ``config.json`` and the like and the weights beside it.

    Raises:
        BaseError: No hub has it, or what lies there is not whole.
        ResourceError: The disk is too small.
    """
    mark = names[0] if names else "config.json"
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _from_hubs(title, str(model), str(model), lambda files: [name for name in names if name in files] if names else chosen_module(files), mark)
    if missing := [name for name in names or (mark,) if not (folder / name).is_file()]:
        raise BaseError(f"The folder {folder} of {title} lacks {missing[0]}: get it whole, or name another folder or id.")
    return folder


def fetch_part(model: str, part: str, title: str) -> Path:
    """The folder ``part`` in the hubs' repository ``model``: its weights in safetensors, configs and vocabularies.

    Raises:
        BaseError: No hub has it, or what stands in for the hub lacks it.
        ResourceError: The disk is too small.
    """
    mark = f"{part}/model.safetensors"
    folder = _from_hubs(title, model, model, lambda files: [name for name in files if name.startswith(f"{part}/") and Path(name).suffix in CONFIGS | {".safetensors"}], mark)
    if not (folder / mark).is_file():
        raise BaseError(f"{title} is not there: {folder} lacks {mark}.")
    return folder / part


def cache() -> Path:
    """Where converted checkpoints lie and fetched folders are noted."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "storyboard").expanduser()


def _local(model: str, mark: str = "model_index.json") -> Path | None:
    """A folder that stands in for the hub, or the one that an earlier call fetched and that holds the file ``mark``."""
    if root := os.environ.get(LOCAL_ROOT):
        folder = Path(root).expanduser() / model.partition("@")[0]
        if not folder.is_dir():
            raise BaseError(f"{LOCAL_ROOT} holds no {model}: put it at {folder} or unset {LOCAL_ROOT} to use the network.")
        return folder
    note = cache() / f"{model.replace('/', '--')}.txt"
    folder = Path(note.read_text(encoding="utf-8").strip()) if note.is_file() else None
    return folder if folder and (folder / mark).is_file() else None


def _from_hubs(
    title: str, modelscope: str, huggingface: str, choose: Callable[[dict[str, int]], list[str]], mark: str = "model_index.json", whole: bool = True,
) -> Path:
    """Download from the first hub that answers; only the files that ``choose`` takes, their size printed before.

    Args:
        whole: A folder that is ready for use, so that its place is noted.
    """
    if folder := _local(modelscope, mark):
        return folder
    failures = []
    for hub in (_modelscope(modelscope), _huggingface(huggingface)):
        try:
            files = hub.files()
            wanted = choose(files)
            size = sum(files[name] for name in wanted)
            print(f"{'base' if mark == 'model_index.json' else 'weights'}: {title} from {hub.name} ({hub.model}), {len(wanted)} files, {size / 1e9:.1f} GB", flush=True)
            if whole and (missing := artifacts.free_space_needed(Path.home(), size)):
                raise ResourceError(f"{title} is {size / 1e9:.1f} GB, {missing / 1e9:.1f} GB more than the disk of {Path.home()} has free: free some space, or set MODELSCOPE_CACHE and HF_HOME to another disk.")
            folder = hub.download(wanted)
        except (*hub.failures, BaseError) as error:
            failures.append(f"{hub.name}: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}".strip())
            continue
        wrong = [name for name in wanted if not (folder / name).is_file() or (folder / name).stat().st_size != files[name]]
        if wrong:
            raise BaseError(f"{folder / wrong[0]} is not of the {files[wrong[0]]} bytes that {hub.name} lists: delete it and run this cell again.")
        if whole:
            cache().mkdir(parents=True, exist_ok=True)
            artifacts.write_atomically(cache() / f"{modelscope.replace('/', '--')}.txt", f"{folder}\n")
        return folder
    raise BaseError(f"{title} could not be fetched ({'; '.join(failures)}): check the network and run this cell again, it goes on where it broke off, or name a folder that holds it.")


def chosen(files: dict[str, int], components: tuple[str, ...], configs_only: bool = False) -> list[str]:
    """Of a repository's files those that are used: configs, tokenizers, and each component's weights once, fp16 first.

    Raises:
        BaseError: A component has no safetensors weights there.
    """
    folders = {*components, "scheduler", *(component.replace("text_encoder", "tokenizer") for component in components if component.startswith("text_encoder"))}
    wanted = [name for name in files if name == "model_index.json" or "/" in name and name.rsplit("/", 1)[0] in folders and Path(name).suffix in CONFIGS and "safetensors" not in name]
    for component in () if configs_only else components:
        weights = {name: found[1] for name in files if name.startswith(f"{component}/") and (found := WEIGHTS.fullmatch(name.rpartition("/")[2]))}
        smallest = [name for name, variant in weights.items() if variant] or list(weights)
        if not smallest:
            raise BaseError(f"The hub has no safetensors weights for {component}: set base to a folder that holds them.")
        wanted += smallest
    return sorted(wanted)


def chosen_module(files: dict[str, int]) -> list[str]:
    """Of the repository of one model the configs and the weights at its top, fp16 first.

    Raises:
        BaseError: It has no safetensors weights there.
    """
    weights = {name: found[1] for name in files if (found := WEIGHTS.fullmatch(name))}
    smallest = [name for name, variant in weights.items() if variant] or list(weights)
    if not smallest:
        raise BaseError("The hub has no safetensors weights for it: name a folder or an id that holds them.")
    return sorted([name for name in files if "/" not in name and Path(name).suffix in CONFIGS and "safetensors" not in name] + smallest)


@dataclass(frozen=True)
class _Hub:
    """What both hubs' own clients do for us; they resume a broken download and verify what they got.

    They read the variables of mirror and cache once, when they are imported: we read them when they are needed.
    """

    name: str
    model: str
    files: Callable[[], dict[str, int]]
    download: Callable[[list[str]], Path]
    failures: tuple[type[Exception], ...]


def _modelscope(model: str) -> _Hub:
    from modelscope import snapshot_download
    from modelscope.hub.api import HubApi
    from modelscope_hub.errors import HubError

    endpoint = os.environ.get("MODELSCOPE_ENDPOINT")
    files = lambda: {file["Path"]: file["Size"] for file in HubApi(endpoint=endpoint).get_model_files(model, recursive=True) if file.get("Type") != "tree"}
    return _Hub("ModelScope", model, files, lambda names: Path(snapshot_download(model, allow_patterns=names, endpoint=endpoint, cache_dir=os.environ.get("MODELSCOPE_CACHE"))), (HubError, OSError, ValueError))


def _huggingface(model: str) -> _Hub:
    import httpx  # what its client speaks through, and lets through when there is no network
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    endpoint, (model, _, revision) = os.environ.get("HF_ENDPOINT"), model.partition("@")
    files = lambda: {file.rfilename: file.size for file in HfApi(endpoint=endpoint).model_info(model, revision=revision or None, files_metadata=True).siblings}
    return _Hub("Hugging Face", model, files, lambda names: Path(snapshot_download(model, revision=revision or None, allow_patterns=names, endpoint=endpoint)), (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError))
