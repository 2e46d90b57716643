"""A model at ModelScope and Hugging Face: its ids, what each lists, and what each client does."""

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storyboard import disks, errors
from storyboard.models import tokens

ANSWERS = {
    401: "it does not exist, or needs a login",
    403: "it is given to those alone who accepted its licence there",
    404: "it is not there",
    429: "the hub answers no more requests for a while",
}
TIMEOUT = 10  # seconds that Hugging Face's listing may take to answer


@dataclass(frozen=True)
class HubModel:
    """Where a model is published.

    Attributes:
        modelscope, huggingface: ``owner/name`` at each hub; None where it is not published, or not
            known to be.
        revision: Branch, tag or reference at Hugging Face; ModelScope names others and is not asked
            for it.
    """

    modelscope: str | None = None
    huggingface: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, model: "str | HubModel") -> "HubModel":
        """By a user's ``owner/name``, the id at both hubs, or ``owner/name@revision``.

        The latter is one at Hugging Face alone.
        """
        if isinstance(model, HubModel):
            return model
        name, _, revision = str(model).partition("@")
        return cls(huggingface=name, revision=revision) if revision else cls(name, name)

    @property
    def ids(self) -> tuple[str, ...]:
        """Its different ids, ModelScope's first."""
        return tuple(dict.fromkeys(name for name in (self.modelscope, self.huggingface) if name))

    def __str__(self) -> str:
        return self.ids[0] + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Hub:
    """What a hub's own client does for us; it resumes a broken download and verifies what it got.

    Clients read the variables of mirror and cache once, when they are imported: we read them when
    they are needed.

    Attributes:
        files: Sizes in bytes by name; 0 where the hub does not list one.
        download: Fetches files by name, those that are there already only if its second argument
            says so; returns the folder that holds them.
        cache: On whose disk they come to lie.
        folder: Of the model in there, with a snapshot for each revision.
    """

    name: str
    model: str
    files: Callable[[], dict[str, int]]
    download: Callable[[list[str], bool], Path]
    cache: Path
    folder: Path

    def missing(self, sizes: dict[str, int]) -> int:
        """Bytes of the files ``sizes`` that no earlier call has brought into the cache."""
        snapshots = list(self.folder.glob("snapshots/*"))
        return sum(
            size
            for name, size in sizes.items()
            if not any(_has(folder / name, size) for folder in snapshots)
        )


def publishing(model: HubModel) -> list[Hub]:
    """The hubs that publish ``model``, in the order in which they are asked."""
    hubs = []
    if model.modelscope:
        hubs.append(_modelscope(model.modelscope))
    if model.huggingface:
        hubs.append(_huggingface(model.huggingface, model.revision))
    return hubs


def reason(error: Exception) -> str:
    """Why a client failed, for a message: the hub's answer in words, or what the client says.

    No token is in it.
    """
    failed = getattr(error, "failed_files", None)  # of ModelScope's client, by name
    if failed:
        name, error = next(iter(failed.items()))
        return f"{name}, {reason(error)}"
    status = status_of(error)
    if status in ANSWERS:
        return f"{ANSWERS[status]} (HTTP {status})"
    if status >= 500:
        return f"the hub is out of order (HTTP {status})"
    return errors.reason(error, tokens.masked)


def status_of(error: Exception) -> int:
    """The HTTP status that a client's error holds; 0 where it holds none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = status or getattr(error, "status_code", None)
    return status if type(status) is int else 0


def disk_is_full(error: Exception) -> bool:
    """Whether a client failed because the disk is full.

    ModelScope's keeps the errors of several files in one.
    """
    causes = (error, *getattr(error, "failed_files", {}).values())
    return any(map(disks.disk_is_full, causes))


def modelscope_cache() -> Path:
    """Where ModelScope's client puts what it fetches."""
    old_name = os.environ.get("MS_CACHE_HOME")
    folder = os.environ.get("MODELSCOPE_CACHE") or old_name
    return Path(folder or Path.home() / ".cache" / "modelscope").expanduser()


def huggingface_cache() -> Path:
    """Where Hugging Face's client puts what it fetches (its ``constants.HF_HUB_CACHE``)."""
    old_name = os.environ.get("HUGGINGFACE_HUB_CACHE")
    if folder := os.environ.get("HF_HUB_CACHE") or old_name:
        return Path(os.path.expandvars(folder)).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(caches) / "huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def modelscope_folder(model: str) -> Path:
    """Where ModelScope's client keeps ``model``."""
    return modelscope_cache() / "models" / model.replace("/", "--")


def huggingface_folder(model: str) -> Path:
    """Where Hugging Face's client keeps ``model``."""
    return huggingface_cache() / f"models--{model.replace('/', '--')}"


def fetched(folder: Path) -> int:
    """Bytes of whole files that a client has brought into ``folder``."""
    return sum(path.stat().st_size for path in folder.glob("snapshots/*/**/*") if path.is_file())


def _modelscope(model: str) -> Hub:
    from modelscope import snapshot_download
    from modelscope.hub.api import HubApi

    endpoint, cache = os.environ.get("MODELSCOPE_ENDPOINT"), modelscope_cache()

    def files() -> dict[str, int]:
        entries = HubApi(endpoint=endpoint).get_model_files(model, recursive=True)
        listed = [entry for entry in entries if entry.get("Type") != "tree"]
        return {entry["Path"]: int(entry.get("Size") or 0) for entry in listed}

    def download(names: list[str], afresh: bool) -> Path:
        # it compares sizes and digests by itself, and fetches anew what differs
        folder = snapshot_download(
            model,
            allow_patterns=_literal(names),
            endpoint=endpoint,
            cache_dir=os.environ.get("MODELSCOPE_CACHE"),
        )
        return Path(folder)

    return Hub("ModelScope", model, files, download, cache, modelscope_folder(model))


def _huggingface(model: str, revision: str | None) -> Hub:
    from huggingface_hub import HfApi, snapshot_download

    endpoint, cache = os.environ.get("HF_ENDPOINT"), huggingface_cache()

    def files() -> dict[str, int]:
        api = HfApi(endpoint=endpoint)
        listed = api.model_info(model, revision=revision, files_metadata=True, timeout=TIMEOUT)
        return {file.rfilename: file.size or 0 for file in listed.siblings}

    def download(names: list[str], afresh: bool) -> Path:
        folder = snapshot_download(
            model,
            revision=revision,
            allow_patterns=_literal(names),
            endpoint=endpoint,
            cache_dir=cache,
            force_download=afresh,
        )
        return Path(folder)

    return Hub("Hugging Face", model, files, download, cache, huggingface_folder(model))


def _literal(names: list[str]) -> list[str]:
    """Patterns that match these names alone; to the clients an empty list means every file.

    Raises:
        ValueError: There are no names.
    """
    if not names:
        raise ValueError("no file is asked for")
    return [glob.escape(name) for name in names]


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
