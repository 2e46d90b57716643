"""Captioned pictures from ModelScope, streamed into a folder that ``collect`` reads; a broken-off download goes on."""

import itertools
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts
from storyboard.compat import modelscope
from storyboard.errors import DatasetError, ResourceError
from storyboard.models.download import LOCAL_ROOT

DEFAULT = "AI-ModelScope/lowres_anime"
SPLIT = "train"
FILES_A_PAGE = 200
TEXT_KEYS = ("text", "caption", "prompt")
SUFFIX = re.compile(r"\.(png|jpe?g|webp|bmp|gif|tiff?)")


@dataclass(frozen=True)
class Source:
    """A data set, opened.

    Attributes:
        rows: Dictionaries in which a picture is ``{"bytes", "path"}``, not decoded.
        columns: Names of those that hold pictures; none where the data set does not say.
        sizes: In bytes, of the files that hold it; 0 where none is listed.
        exact: Whether they are those that will be read, and no others.
        holds: Whether a path that a row names is inside the data set: it could name any file of this machine.
    """

    rows: Iterable[dict]
    columns: list[str]
    sizes: dict[str, int]
    exact: bool
    holds: Callable[[str], bool]

    @property
    def size(self) -> int:
        """Bytes, as far as they are listed."""
        return sum(self.sizes.values())

    def __str__(self) -> str:
        unknown = sum(not size for size in self.sizes.values())
        at_most = "" if self.exact else "at most "
        some = f" and {unknown} files of unknown size" if unknown else ""
        return f"{at_most}{self.size / 1e6:,.1f} MB{some}"


def looks_like_id(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name``."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def fetch(dataset_id: str, cache: Path) -> Path:
    """Stream the ``train`` split of a ModelScope data set into ``cache/<owner>--<name>``.

    Says what will be downloaded and how large it is before it starts. Pictures are written as the data set holds them:
    what cannot be read is for ``collect`` to report. Every picture is on disk before the next is asked for, so that a
    second call goes on where the first one stopped.

    Raises:
        DatasetError: The hub or the data set cannot be reached, or its rows hold no picture.
        ResourceError: The disk is smaller than the data set.
    """
    folder = cache / dataset_id.replace("/", "--")
    done = folder / "complete"
    if done.is_file():
        return folder
    root = os.environ.get(LOCAL_ROOT)
    location = Path(root).expanduser() / dataset_id if root else None
    if root and not location.is_dir():
        raise DatasetError(
            f"{LOCAL_ROOT} holds no {dataset_id}: put it at {location} or unset {LOCAL_ROOT} to use the network."
        )
    at = 0
    try:
        with _local(location) if root else _hub(dataset_id) as source:
            print(
                f"collect: streaming {dataset_id} from {root or 'ModelScope'} ({source}) into {folder}",
                flush=True,
            )
            _check_disk(folder, dataset_id, source)
            folder.mkdir(parents=True, exist_ok=True)
            for at in _write(source, folder, dataset_id):
                if at and at % 100 == 0:
                    print(f"collect: {at} pictures", flush=True)
    except _failures() as error:
        if artifacts.disk_is_full(error):
            said = f"The disk of {folder} became full at picture {at + 1} of {dataset_id}"
            raise ResourceError(
                f"{said}: free some space and run this cell again to go on from there."
            ) from error
        what = f"broke off after {at} pictures" if at else "cannot be read"
        said = f"{dataset_id} {what} ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
        mend = 'check the name and the network and run this cell again to go on from there, or set dataset to "sample"'
        raise DatasetError(f"{said}: {mend}.") from error
    done.touch()
    return folder


def _check_disk(folder: Path, dataset_id: str, source: Source) -> None:
    have = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    if missing := artifacts.free_space_needed(folder, max(source.size - have, 0)):
        said = f"{dataset_id} is {source}, {missing / 1e6:,.0f} MB more than the disk of {folder} has free"
        raise ResourceError(f"{said}: set output to another disk.")


ARCHIVE = re.compile(
    r"(?:zip|tar|gzip|bz2|lz4|xz|zstd)://"
)  # a hop of fsspec's paths, ``zip://inside::outside``
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)  # what a spoilt archive raises


def _failures() -> tuple[type[Exception], ...]:
    """What a stream raises; a picture's own faults are not among it, since none is decoded."""
    import httpx
    from datasets.exceptions import DatasetsError
    from modelscope_hub.errors import HubError

    return (HubError, DatasetsError, httpx.HTTPError, *DAMAGED, OSError, ValueError, RuntimeError)


@contextmanager
def _hub(dataset_id: str) -> Iterator[Source]:
    """The data set at ModelScope; MODELSCOPE_ENDPOINT names another place that answers like it."""
    api = modelscope.api()
    endpoint = api.get_endpoint_for_read(repo_id=dataset_id, repo_type="dataset")
    sizes = _listing(modelscope.api(endpoint), dataset_id)
    with modelscope.stream(dataset_id, SPLIT, sizes, endpoint) as (rows, read):
        inside = f"hf://datasets/{dataset_id}@"
        holds = lambda path: path.startswith(inside)
        yield Source(*_undecoded(rows), sizes if read is None else read, read is not None, holds)


def _listing(api, dataset_id: str) -> dict[str, int]:
    """Sizes of all files of the data set; 0 where a size is not listed."""
    sizes = {}
    for page in itertools.count(1):
        files = api.get_dataset_files(dataset_id, page_number=page, page_size=FILES_A_PAGE)
        sizes |= {
            file["Path"]: int(file.get("Size") or 0) for file in files if file.get("Type") != "tree"
        }
        if len(files) < FILES_A_PAGE:
            return sizes


@contextmanager
def _local(folder: Path) -> Iterator[Source]:
    """The data set in a folder that stands in for the hub."""
    import datasets

    builder = datasets.load_dataset_builder(str(folder))
    listed = (builder.config.data_files or {}).get(SPLIT, ())
    inside = [Path(path) for path in listed if Path(path).is_file()]
    files = inside or [path for path in folder.rglob("*") if path.is_file()]
    sizes = {str(path): path.stat().st_size for path in files}
    rows, columns = _undecoded(builder.as_streaming_dataset(split=SPLIT))
    yield Source(
        rows,
        columns,
        sizes,
        bool(inside),
        lambda path: Path(path).resolve().is_relative_to(folder.resolve()),
    )


def _undecoded(rows: Iterable[dict]) -> tuple[Iterable[dict], list[str]]:
    """A stream's rows with pictures as they are stored, so that a broken one does not end it; and the pictures' columns."""
    from datasets import Image

    features = getattr(rows, "features", None) or {}
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    for name in columns:
        rows = rows.cast_column(name, Image(decode=False))
    return rows, columns


def _write(source: Source, folder: Path, dataset_id: str) -> Iterator[int]:
    """Append every row that is not in the listing yet; yields how many rows it holds then.

    Raises:
        DatasetError: A row has no column of pictures.
    """
    listing = folder / "metadata.jsonl"
    have = _repair(listing)
    yield have

    with open(listing, "a", encoding="utf-8") as lines:
        for place, row in enumerate(source.rows):
            if place == 0:
                _tell_columns(row, dataset_id)
            if place < have:
                continue
            image = _picture(row, source.columns, dataset_id)
            item = _save(image, source.holds, folder, place) | {"text": _caption(row)}
            lines.write(json.dumps(item, ensure_ascii=False) + "\n")
            lines.flush()
            yield place + 1


def _tell_columns(row: dict, dataset_id: str) -> None:
    if not any(key in row for key in TEXT_KEYS):
        said = f"{dataset_id} has the columns {', '.join(row)} and no captions in {', '.join(TEXT_KEYS)}"
        print(f'collect: {said}: set caption_template, such as "二次元", or captioner', flush=True)


def _repair(listing: Path) -> int:
    """Whole rows already on disk; half a line that a break left behind is cut off."""
    if not listing.is_file():
        return 0
    text = listing.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        artifacts.write_atomically(listing, whole)
    return whole.count("\n")


def _picture(row: dict, columns: list[str], dataset_id: str) -> dict | None:
    """The first picture of ``row``; None where it holds none.

    Raises:
        DatasetError: No column is one of pictures.
    """
    values = [row.get(name) for name in columns or row]
    found = next(
        (
            value
            for value in values
            if isinstance(value, dict) and {"bytes", "path"} <= value.keys()
        ),
        None,
    )
    if found is None and not columns:
        raise DatasetError(
            f"{dataset_id} holds no pictures, only {', '.join(row)}: choose a data set of pictures."
        )
    return found


def _save(
    image: dict | None, holds: Callable[[str], bool], folder: Path, place: int
) -> dict[str, str]:
    """Write the picture of row ``place`` as it is; what a line of the listing says of it.

    A picture that the data set does not hold gets a line with a ``reason``, so that rows keep their numbers.
    """
    suffix = Path((image or {}).get("path") or "").suffix.lower()
    name = (
        f"{place:06d}{suffix if SUFFIX.fullmatch(suffix) else '.png'}"  # readers go by the content
    )
    try:
        artifacts.write_atomically(folder / name, _content(image, holds))
    except (FileNotFoundError, *DAMAGED) as error:
        return {"file_name": name, "reason": f"row {place}: {error}"}
    return {"file_name": name}


def _content(image: dict | None, holds: Callable[[str], bool]) -> bytes:
    """A picture's bytes, out of the row or out of the file that it names.

    Raises:
        FileNotFoundError: There is no picture, or it names a file that is not in the data set.
    """
    from datasets.utils.file_utils import xopen

    image = image or {}
    if image.get("bytes"):
        return image["bytes"]
    if not (path := image.get("path")):
        raise FileNotFoundError("it holds no picture")
    *inside, outside = path.split("::")
    if not holds(outside) or not all(
        map(ARCHIVE.match, inside)
    ):  # a first hop without a protocol would be a file of this machine
        raise FileNotFoundError(f"{path} is not in the data set")
    with xopen(path, "rb") as file:
        return file.read()


def _caption(row: dict) -> str:
    return next((str(row[key]).strip() for key in TEXT_KEYS if row.get(key)), "")
