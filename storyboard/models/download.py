"""From the first hub that has all wanted files onto the disk, their size printed before."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from storyboard import artifacts
from storyboard.errors import BaseError, ResourceError
from storyboard.models import hubs, repository
from storyboard.models.hubs import Hub, HubModel

LOCAL_ROOT = "STORYBOARD_HUB"  # a folder laid out as <owner>/<name>, read instead of the network
CACHE = "STORYBOARD_CACHE"  # where fetched folders are noted and converted checkpoints lie

Choose = Callable[[dict[str, int]], list[str]]  # bytes by name -> names


def cache() -> Path:
    """Where converted checkpoints lie and fetched folders are noted."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "storyboard").expanduser()


def local(model: HubModel, needed: Sequence[str]) -> Path | None:
    """A folder that stands in for the hubs, or the one that an earlier call fetched.

    The latter has to hold the files ``needed``, and all others as they came.

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

    folder, sizes = _noted(model)
    if folder is None:
        return None
    try:
        whole = all(_is_whole(folder / name, size) for name, size in sizes.items())
        return folder if whole and all((folder / name).is_file() for name in needed) else None
    except OSError:  # a damaged note may hold what is too long for a path
        return None


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
            folder, sizes = _from_hub(title, hub, choose, kind)
        except ResourceError:
            raise
        except Exception as error:  # clients raise whatever an answer of another shape leads to
            if hubs.disk_is_full(error):
                raise ResourceError(
                    f"The disk of {hub.cache} became full while {title} was fetched: free some "
                    "space and run this cell again, it goes on where it broke off."
                ) from error
            failures.append(f"{hub.name}: {hubs.reason(error)}")
            continue

        if complete:
            cache().mkdir(parents=True, exist_ok=True)
            artifacts.write_atomically(_note(model), _note_of(folder, sizes))
        return folder

    mirror = ""
    if not model.modelscope:
        mirror = ", set HF_ENDPOINT to a mirror of Hugging Face, which alone is known to have it"
    raise BaseError(
        f"{title} could not be fetched ({'; '.join(failures)}): check the network and run this "
        f"cell again, it goes on where it broke off{mirror}, or name a folder that holds it."
    )


def _from_hub(title: str, hub: Hub, choose: Choose, kind: str) -> tuple[Path, dict[str, int]]:
    """The folder at which ``hub`` put the files that ``choose`` takes of its list, and their sizes.

    What is there already, of another size than the hub lists, is fetched anew.

    Raises:
        BaseError: The hub sends other files than it lists.
        ResourceError: The disk is too small.
    """
    listed = {name: size for name, size in hub.files().items() if repository.is_inside(name)}
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

    folder = hub.download(list(sizes), False)
    for afresh in (True, False):
        wrong = [name for name, size in sizes.items() if not _is_whole(folder / name, size)]
        if not wrong:
            return folder, sizes
        if afresh:
            folder = hub.download(wrong, True)
    raise BaseError(f"{wrong[0]} did not come with the {sizes[wrong[0]]} bytes that are listed.")


def _note(model: HubModel) -> Path:
    """The file that says where an earlier call put ``model``."""
    return cache() / f"{str(model).replace('/', '--')}.txt"


def _note_of(folder: Path, sizes: Mapping[str, int]) -> str:
    """What ``_noted`` reads: the folder, then a size and a name a line."""
    lines = [str(folder), *(f"{size} {name}" for name, size in sizes.items())]
    return "".join(f"{line}\n" for line in lines)


def _noted(model: HubModel) -> tuple[Path | None, dict[str, int]]:
    """Where an earlier call put ``model``, and the sizes of its files.

    An earlier release noted the folder alone.
    """
    try:
        folder, *lines = _note(model).read_text(encoding="utf-8").splitlines()
        sizes = {name: int(size) for size, _, name in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):  # there is none, or it is damaged
        return None, {}
    return Path(folder), sizes


def _is_whole(path: Path, size: int) -> bool:
    """Whether the file is there and of the size that the hub lists, if it lists one."""
    return path.is_file() and size in (0, path.stat().st_size)
