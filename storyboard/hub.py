"""Captioned pictures from ModelScope, streamed into a folder that ``collect`` reads; a broken-off download goes on."""

import itertools
import json
import os
import re
from pathlib import Path

from . import artifacts
from .errors import DatasetError, ResourceError

DEFAULT = "AI-ModelScope/lowres_anime"
FILES_A_PAGE = 200
LOCAL_ROOT = "STORYBOARD_HUB"  # environment variable: a folder laid out as <owner>/<name>, read instead of the network


def looks_like_id(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name``."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def fetch(dataset_id: str, cache: Path) -> Path:
    """Stream the ``train`` split of a ModelScope data set into ``cache/<owner>--<name>``.

    Says what will be downloaded and how large it is before it starts. Every picture is on disk before the next is
    asked for, so that a second call goes on where the first one stopped.

    Raises:
        DatasetError: The hub or the data set cannot be reached, or its rows hold no picture.
        ResourceError: The disk is smaller than the data set.
    """
    folder = cache / dataset_id.replace("/", "--")
    done = folder / "complete"
    if done.is_file():
        return folder
    root = os.environ.get(LOCAL_ROOT)
    location = str(Path(root).expanduser() / dataset_id) if root else dataset_id
    if root and not Path(location).is_dir():
        raise DatasetError(f"{LOCAL_ROOT} holds no {dataset_id}: put it at {location} or unset {LOCAL_ROOT} to use the network.")
    size = _local_size(Path(location)) if root else _hub_size(dataset_id)
    print(f"collect: streaming {dataset_id} from {'ModelScope' if not root else root} ({size / 1e6:,.0f} MB) into {folder}")
    if missing := artifacts.free_space_needed(folder, size):
        raise ResourceError(f"{dataset_id} is {size / 1e6:,.0f} MB, {missing / 1e6:,.0f} MB more than the disk of {folder} has free: set output to another disk.")
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "metadata.jsonl"
    have = _repair(listing)
    with open(listing, "a", encoding="utf-8") as lines:
        for place, row in enumerate(_stream(location, dataset_id)):
            if place < have:
                continue
            name = _save(row, folder, place, dataset_id)
            lines.write(json.dumps({"file_name": name, "text": _caption(row)}, ensure_ascii=False) + "\n")
            lines.flush()
            if (place + 1) % 100 == 0:
                print(f"collect: {place + 1} pictures", flush=True)
    done.touch()
    return folder


def _stream(location: str, dataset_id: str):
    from modelscope.msdatasets import MsDataset
    from modelscope_hub.errors import HubError

    try:
        yield from MsDataset.load(location, split="train", use_streaming=True)
    except (HubError, OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{dataset_id} broke off ({type(error).__name__}: {error}): run this cell again to go on from there, or set dataset to \"sample\".") from error


def _hub_size(dataset_id: str) -> int:
    from modelscope.hub.api import HubApi
    from modelscope_hub.errors import HubError

    total = 0
    try:
        for page in itertools.count(1):
            files = HubApi().get_dataset_files(dataset_id, page_number=page, page_size=FILES_A_PAGE)
            total += sum(file.get("Size") or 0 for file in files)
            if len(files) < FILES_A_PAGE:
                return total
    except (HubError, OSError) as error:
        raise DatasetError(f"ModelScope does not answer for {dataset_id} ({type(error).__name__}): check the name and the network, or set dataset to \"sample\".") from error


def _local_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _repair(listing: Path) -> int:
    """Whole rows already on disk; half a line that a break left behind is cut off."""
    if not listing.is_file():
        return 0
    text = listing.read_text(encoding="utf-8")
    whole = text[:text.rfind("\n") + 1]
    if whole != text:
        artifacts.write_atomically(listing, whole)
    return whole.count("\n")


def _save(row: dict, folder: Path, place: int, dataset_id: str) -> str:
    image = next((value for value in row.values() if hasattr(value, "save")), None)
    if image is None:
        raise DatasetError(f"Row {place} of {dataset_id} holds no picture, only {', '.join(row)}: choose a data set of pictures.")
    name = f"{place:06d}.png"
    temporary = folder / f".{name}"
    (image if image.mode in ("RGB", "RGBA", "L", "P") else image.convert("RGB")).save(temporary, format="PNG")
    os.replace(temporary, folder / name)
    return name


def _caption(row: dict) -> str:
    return next((str(row[key]).strip() for key in ("text", "caption", "prompt") if row.get(key)), "")
