"""Captioned pictures from ModelScope, streamed into a folder that ``collect`` reads.

A broken-off download goes on where it stopped.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts, disks
from storyboard.compat import modelscope
from storyboard.data import hub_rows
from storyboard.data.captions import LISTING
from storyboard.data.rows import caption_of
from storyboard.data.text_files import Refusal, Text
from storyboard.data.tree import shown
from storyboard.errors import DatasetError, ResourceError
from storyboard.models import tokens
from storyboard.models.download import LOCAL_ROOT

DEFAULT = "AI-ModelScope/lowres_anime"
SPLIT = "train"
FILES_A_PAGE = 200
PICTURES_A_MESSAGE = 100
LONGEST_REASON = 300  # characters of a library's message
COMPLETE = "complete"  # the file that marks a finished download


@dataclass(frozen=True)
class Source:
    """A data set, opened.

    Attributes:
        rows: Dictionaries in which a picture is ``{"bytes", "path"}``, not decoded.
        columns: Names of those that hold pictures; none where the data set does not say.
        sizes: In bytes, of the files that hold it; 0 where none is listed.
        exact: Whether they are those that will be read, and no others.
        holds: Whether a path that a row names is inside the data set: it could name any file of
            this machine.
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
        unlisted = f" and {unknown} files of unknown size" if unknown else ""
        return f"{at_most}{self.size / 1e6:,.1f} MB{unlisted}"


def fetch(dataset_id: str, cache: Path) -> Path:
    """Stream the ``train`` split of a ModelScope data set into ``cache/<owner>--<name>``.

    Says what will be downloaded and how large it is before it starts. Pictures are written as the
    data set holds them: what cannot be read is for ``collect`` to report. Every picture is on disk
    before the next is asked for, so that a second call goes on where the first one stopped.

    Raises:
        DatasetError: The hub or the data set cannot be reached, or its rows hold no picture.
        ResourceError: The disk is smaller than the data set.
    """
    folder = cache / dataset_id.replace("/", "--")
    complete = folder / COMPLETE
    if complete.is_file():
        return folder

    local = _local_folder(dataset_id)
    written = 0
    try:
        with _local(local) if local else _hub(dataset_id) as source:
            origin = os.environ[LOCAL_ROOT] if local else "ModelScope"
            print(
                f"collect: streaming {dataset_id} from {origin} ({source}) into {folder}",
                flush=True,
            )
            _check_disk(folder, dataset_id, source)
            folder.mkdir(parents=True, exist_ok=True)
            for written in _write(source, folder, dataset_id):
                if written and written % PICTURES_A_MESSAGE == 0:
                    print(f"collect: {written} pictures", flush=True)
    except _failures() as error:
        # without the client's own error, which may quote a token
        raise _explained(error, dataset_id, folder, written) from None
    complete.touch()
    return folder


def _local_folder(dataset_id: str) -> Path | None:
    """The data set's folder in a local stand-in for the hub; None where none is set."""
    root = os.environ.get(LOCAL_ROOT)
    if not root:
        return None
    folder = Path(root).expanduser() / dataset_id
    if not folder.is_dir():
        raise DatasetError(
            f"{LOCAL_ROOT} holds no {dataset_id}: put it at {folder} or unset {LOCAL_ROOT} "
            "to use the network."
        )
    return folder


def _check_disk(folder: Path, dataset_id: str, source: Source) -> None:
    present = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    if missing := artifacts.free_space_needed(folder, max(source.size - present, 0)):
        raise ResourceError(
            f"{dataset_id} is {source}, {missing / 1e6:,.0f} MB more than the disk of {folder} "
            "has free: set output to another disk."
        )


def _failures() -> tuple[type[Exception], ...]:
    """What a stream raises; none is a picture's own fault, since no picture is decoded."""
    import httpx
    from datasets.exceptions import DatasetsError
    from modelscope_hub.errors import HubError

    archive = hub_rows.DAMAGED_ARCHIVE
    return (HubError, DatasetsError, httpx.HTTPError, *archive, OSError, ValueError, RuntimeError)


def _explained(
    error: Exception, dataset_id: str, folder: Path, written: int
) -> ResourceError | DatasetError:
    """``error`` after ``written`` pictures, as one sentence."""
    if disks.disk_is_full(error):
        return ResourceError(
            f"The disk of {folder} became full at picture {written + 1} of {dataset_id}: "
            "free some space and run this cell again to go on from there."
        )
    what = f"broke off after {written} pictures" if written else "cannot be read"
    first_line = next(iter(tokens.masked(str(error)).splitlines()), "")[:LONGEST_REASON]
    return DatasetError(
        f"{dataset_id} {what} ({type(error).__name__}: {first_line}): check the name and the "
        'network and run this cell again to go on from there, or set dataset to "sample".'
    )


@contextmanager
def _hub(dataset_id: str) -> Iterator[Source]:
    """The data set at ModelScope, or at MODELSCOPE_ENDPOINT, which answers like it."""
    api = modelscope.api()
    endpoint = api.get_endpoint_for_read(repo_id=dataset_id, repo_type="dataset")
    listed = _listing(modelscope.api(endpoint), dataset_id)
    inside = f"hf://datasets/{dataset_id}@"

    with modelscope.stream(dataset_id, SPLIT, listed, endpoint) as (stream, read):
        rows, columns = _undecoded(stream)
        yield Source(
            rows,
            columns,
            sizes=listed if read is None else read,
            exact=read is not None,
            holds=lambda path: path.startswith(inside),
        )


def _listing(api, dataset_id: str) -> dict[str, int]:
    """Sizes of all files of the data set; 0 where a size is not listed."""
    sizes = {}
    for page in itertools.count(1):
        files = api.get_dataset_files(dataset_id, page_number=page, page_size=FILES_A_PAGE)
        for file in files:
            if file.get("Type") != "tree":
                size = file.get("Size")
                sizes[str(file["Path"])] = size if isinstance(size, int) else 0
        if len(files) < FILES_A_PAGE:
            break
    return sizes


@contextmanager
def _local(folder: Path) -> Iterator[Source]:
    """The data set in a folder that stands in for the hub."""
    import datasets

    builder = datasets.load_dataset_builder(str(folder))
    listed = (builder.config.data_files or {}).get(SPLIT, ())
    inside = [Path(path) for path in listed if Path(path).is_file()]
    files = inside or [path for path in folder.rglob("*") if path.is_file()]
    rows, columns = _undecoded(builder.as_streaming_dataset(split=SPLIT))
    yield Source(
        rows,
        columns,
        sizes={str(path): path.stat().st_size for path in files},
        exact=bool(inside),
        holds=lambda path: Path(path).resolve().is_relative_to(folder.resolve()),
    )


def _undecoded(rows) -> tuple[Iterable[dict], list[str]]:
    """A stream's rows with pictures as they are stored, and the names of the pictures' columns.

    A broken picture would end a stream that decodes.

    Args:
        rows: datasets' ``IterableDataset``, or a plain iterable without columns of pictures.
    """
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
    listing = folder / LISTING
    present = hub_rows.repair(listing)
    yield present

    noted: set[str] = set()
    with listing.open("a", encoding="utf-8") as lines:
        for index, row in enumerate(source.rows):
            if index == 0:
                hub_rows.print_missing_captions(row, dataset_id)
            if index < present:
                continue
            picture = hub_rows.picture_of(row, source.columns, dataset_id)
            try:
                caption = caption_of(row)
                line = hub_rows.save(picture, source.holds, folder, index)
                line["text"] = caption.text
            except Refusal as refusal:
                caption = Text("")
                line = {"file_name": f"{index:06d}.png", "reason": f"row {index} {refusal}"}
            if caption.note and caption.note not in noted:
                noted.add(caption.note)
                print(f"collect: row {index} of {dataset_id} {caption.note}", flush=True)
            line = {key: shown(value) if key == "reason" else value for key, value in line.items()}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            lines.flush()
            yield index + 1
