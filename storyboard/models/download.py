"""From the first hub that has all wanted files onto the disk, their size printed before."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import BaseError, ResourceError
from storyboard.models import hubs
from storyboard.models.hubs import Hub, HubModel

LOCAL_ROOT = "STORYBOARD_HUB"  # a folder laid out as <owner>/<name>, read instead of the network
CACHE = "STORYBOARD_CACHE"  # where fetched folders are noted and converted checkpoints lie

Choose = Callable[[dict[str, int]], list[str]]  # bytes by name -> names


def cache() -> Path:
    """Where converted checkpoints lie and fetched folders are noted."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "storyboard").expanduser()


def local(model: HubModel, needed: Sequence[str]) -> Path | None:
    """A folder that stands in for the hubs, or the one that an earlier call fetched.

    The latter has to hold the files ``needed``.

    Raises:
        BaseError: ``STORYBOARD_HUB`` is set, and the model is not there.
    """
    if root := os.environ.get(LOCAL_ROOT):
        folders = [Path(root).expanduser() / name for name in model.ids]
        for folder in folders:
            if folder.is_dir():
                return folder
        raise BaseError(
            f"{LOCAL_ROOT} holds no {' or '.join(model.ids)}: put it at {folders[0]} "
            f"or unset {LOCAL_ROOT} to use the network."
        )

    note = _note(model)
    if not note.is_file():
        return None
    folder = Path(note.read_text(encoding="utf-8").strip())
    return folder if all((folder / name).is_file() for name in needed) else None


def from_hubs(
    title: str,
    model: HubModel,
    choose: Choose,
    needed: Sequence[str],
    kind: str = "weights",
    complete: bool = True,
) -> Path:
    """The folder of ``model``, downloaded where it is not on the disk yet.

    Args:
        title: What it is, for messages.
        choose: Takes sizes by name and returns the names to download; raises BaseError where a hub
            does not list what is wanted.
        needed: Files that a folder fetched earlier must hold to be used.
        kind: First word of what is printed.
        complete: A folder that is ready for use, so that its path is noted.

    Raises:
        BaseError: No hub has it.
        ResourceError: The disk is too small.
    """
    if folder := local(model, needed):
        return folder

    failures = []
    for hub in hubs.publishing(model):
        try:
            folder = _from_hub(title, hub, choose, kind)
        except (*hubs.failures(), BaseError) as error:
            if hubs.disk_is_full(error):
                raise ResourceError(
                    f"The disk of {hub.cache} became full while {title} was fetched: free some "
                    "space and run this cell again, it goes on where it broke off."
                ) from error
            failures.append(f"{hub.name}: {_reason(error)}")
            continue

        if complete:
            cache().mkdir(parents=True, exist_ok=True)
            artifacts.write_atomically(_note(model), f"{folder}\n")
        return folder

    mirror = ""
    if not model.modelscope:
        mirror = ", set HF_ENDPOINT to a mirror of Hugging Face, which alone is known to have it"
    raise BaseError(
        f"{title} could not be fetched ({'; '.join(failures)}): check the network and run this "
        f"cell again, it goes on where it broke off{mirror}, or name a folder that holds it."
    )


def _from_hub(title: str, hub: Hub, choose: Choose, kind: str) -> Path:
    """The folder at which ``hub`` put the files that ``choose`` takes of its list."""
    listed = hub.files()
    sizes = {name: listed[name] for name in choose(listed)}
    size = sum(sizes.values())
    at_least = "" if all(sizes.values()) else "at least "
    print(
        f"{kind}: {title} from {hub.name} ({hub.model}), {len(sizes)} files, "
        f"{at_least}{size / 1e9:.1f} GB",
        flush=True,
    )

    if missing := artifacts.free_space_needed(hub.cache, hub.missing(sizes)):
        raise ResourceError(
            f"{title} is {size / 1e9:.1f} GB, {missing / 1e9:.1f} GB more than the disk of "
            f"{hub.cache} has free: free some space, or set MODELSCOPE_CACHE and HF_HOME to "
            "another disk."
        )

    folder = hub.download(list(sizes))
    for name, expected in sizes.items():
        if not _is_whole(folder / name, expected):
            raise BaseError(
                f"{folder / name} is not of the {expected} bytes that {hub.name} lists: "
                "delete it and run this cell again."
            )
    return folder


def _note(model: HubModel) -> Path:
    """The file that says where an earlier call put ``model``."""
    return cache() / f"{str(model).replace('/', '--')}.txt"


def _is_whole(path: Path, size: int) -> bool:
    """Whether the file is there and of the size that the hub lists, if it lists one."""
    return path.is_file() and size in (0, path.stat().st_size)


def _reason(error: Exception) -> str:
    """Type and first line of an error of a client; the message alone of our own."""
    lines = str(error).splitlines()
    message = lines[0].rstrip(".") if lines else ""
    if isinstance(error, BaseError):
        return message
    return f"{type(error).__name__} {message}".strip()
