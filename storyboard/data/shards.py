"""Shards of a data set, WebDataset's tars and Parquet tables, unpacked into folders that
``collect`` reads: a picture a row, captions in a listing.

No name in a shard becomes a path: pictures are numbered.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from storyboard import artifacts, cluster, images, show
from storyboard.cluster import Cluster
from storyboard.data import text_files
from storyboard.data.beside import SUFFIXES, caption_in
from storyboard.data.captions import LISTING
from storyboard.data.listing_file import suffix
from storyboard.data.rows import caption_of, folded
from storyboard.data.text_files import Refusal
from storyboard.data.tree import File, Tree, is_hidden, shown
from storyboard.errors import ResourceError
from storyboard.settings import Settings

TAR, PARQUET = ".tar", ".parquet"
MARKER = ".unpacked"  # a file in what is written here, which may be deleted
ROWS_IN_MEMORY = 16  # of a table
UNSAFE = re.compile(r"[^\w-]+", re.ASCII)
# columns that hold a picture's bytes; beside those that Hugging Face writes, a struct of them
BYTES_KEYS = frozenset(map(folded, ("image", "img", "picture", "jpg", "jpeg", "png", "webp")))
NO_PICTURES = "is not there: a tar holds name.jpg and name.txt, a table the columns image and text"
Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A picture's file, its suffix, and its caption, which may be empty."""

    content: bytes
    suffix: str
    caption: str


def of(tree: Tree) -> list[File]:
    """The shards of ``tree``; none where it has pictures, to which those would be others."""
    if any(images.is_named_as_picture(Path(name)) for name in tree.files):
        return []
    return [
        file
        for name, file in tree.files.items()
        if suffix(name) in (TAR, PARQUET) and not is_hidden(name)
    ]


def unpack(shards: Sequence[File], settings: Settings) -> Path:
    """Unpack ``shards`` into ``<output>/unpacked``, which is returned.

    One that is there already is not unpacked again, and what is of no shard goes.

    Raises:
        ResourceError: The disk is smaller than they are, or a machine of the cluster does not see
            them.
    """
    folder = settings.folder / "unpacked"
    folder.mkdir(parents=True, exist_ok=True)
    targets = {(folder / _name(file)).resolve(): file for file in shards}
    for other in folder.resolve().iterdir():
        if other not in targets and (other / MARKER).is_file():
            shutil.rmtree(other)

    missing = {target: file for target, file in targets.items() if not target.is_dir()}
    if not missing:
        return folder
    size = sum(file.size for file in missing.values())
    if lacking := artifacts.free_space_needed(folder, size):
        raise ResourceError(
            f"The disk of {folder} lacks {lacking / 1e6:,.0f} MB for {len(missing)} shards: "
            "free some space or set output to another disk."
        )
    print(f"collect: unpacking {len(missing)} shards ({size / 1e6:,.1f} MB)", flush=True)
    rows = [
        {"shard": str(file.path.resolve()), "changed": file.changed, "target": str(target)}
        for target, file in missing.items()
    ]
    with cluster.connected_if(settings.cluster, settings.folder) as ray:
        _unpack(rows, ray)
    return folder


def _unpack(rows: Sequence[Row], ray: Cluster | None) -> None:
    with show.Live("unpack", len(rows)) as live, ThreadPoolExecutor(os.cpu_count()) as pool:
        elsewhere = {"elsewhere": True}
        done = ray.map(rows, Unpacker, elsewhere) if ray else pool.map(Unpacker(), rows)
        for number, _ in enumerate(done, 1):
            live.step(number)


def _name(file: File) -> str:
    """The folder of a shard: another once it has changed."""
    stamp = f"{file.name}\0{file.size}\0{file.changed}"
    digest = hashlib.sha256(stamp.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{UNSAFE.sub('-', PurePosixPath(file.name).stem)[:60]}-{digest}"


class Unpacker:
    """Called with a shard: unpacks it, all or nothing.

    Args:
        elsewhere: This may be another machine than the notebook's.

    Raises:
        ResourceError: It does not see the shard.
    """

    def __init__(self, elsewhere: bool = False) -> None:
        self.elsewhere = elsewhere

    def __call__(self, row: Row) -> Row:
        shard, target = Path(row["shard"]), Path(row["target"])
        if self.elsewhere and not shard.is_file():
            raise ResourceError(
                f"A machine of the cluster does not see {shard}: put the data set on a disk that "
                "is mounted at the same path on every machine, or collect with cluster=None."
            )
        unfinished = target.with_name(f".{target.name}-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        (unfinished / MARKER).touch()
        with (unfinished / LISTING).open("w", encoding="utf-8") as lines:
            for line in _lines(shard, unfinished, row["changed"]):
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        # a worker that was taken for dead may have been here before
        with contextlib.suppress(OSError):
            unfinished.rename(target)
        shutil.rmtree(unfinished, ignore_errors=True)
        return {}


def _lines(shard: Path, folder: Path, changed: int) -> Iterator[dict[str, str]]:
    """Write the pictures of ``shard`` into ``folder``; yields a line of the listing for each.

    Where it ends too early there is a line with the reason.
    """
    import pyarrow

    rows = _of_tar(shard) if suffix(shard.name) == TAR else _of_table(shard)
    for index in itertools.count():
        name = f"{shown(shard.name)} picture {index + 1}"
        try:
            read = next(rows)
        except StopIteration:
            if not index:
                yield {"file_name": name, "reason": NO_PICTURES}
            return
        except (tarfile.TarError, pyarrow.ArrowException, EOFError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            yield {"file_name": name, "reason": f"is damaged from there on ({reason})"}
            return
        try:
            sample = read()
        except Refusal as refusal:
            yield {"file_name": name, "reason": str(refusal)}
            continue
        written = folder / f"{index:06d}{sample.suffix}"
        written.write_bytes(sample.content)
        os.utime(written, ns=(changed, changed))  # unpacked again, it is the same
        yield {"file_name": written.name, "text": sample.caption}


def _of_tar(shard: Path) -> Iterator[Callable[[], Sample]]:
    """The samples of a WebDataset: files whose names are the same up to the first dot."""
    with tarfile.open(shard, "r:") as archive:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        cut_off = None
        try:
            for member in archive:
                name = PurePosixPath(member.name)
                stem, dot, ending = name.name.partition(".")
                if member.isreg() and dot and stem:
                    key = str(name.parent / stem)
                    samples.setdefault(key, {}).setdefault(f".{ending}".casefold(), member)
        except tarfile.TarError as error:  # what came before it is read
            cut_off = error

        for files in samples.values():
            if any(_is_picture(ending) for ending in files):
                yield functools.partial(_of_files, archive, files)
        if cut_off:
            raise cut_off


def _of_files(archive: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo]) -> Sample:
    """A sample by its files' endings; the first caption that says anything."""
    ending = next(filter(_is_picture, files))
    content = _content(archive, files[ending], images.MAX_BYTES)
    for each in SUFFIXES:
        if each in files:
            text = text_files.decode(_content(archive, files[each], text_files.MAX_FILE))
            if caption := caption_in(each, text).text:
                return Sample(content, ending, caption)
    return Sample(content, ending, "")


def _is_picture(ending: str) -> bool:
    return ending.count(".") == 1 and images.is_named_as_picture(Path(f"name{ending}"))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    file = archive.extractfile(member)
    if member.size > limit or file is None:
        raise Refusal(f"has {member.size:,} bytes, where {limit:,} are read")
    try:
        return file.read()
    except (tarfile.TarError, OSError) as error:
        raise Refusal(f"is damaged ({error})") from error


def _of_table(shard: Path) -> Iterator[Callable[[], Sample]]:
    """The rows of a Parquet table, of which a column holds pictures."""
    from pyarrow import parquet

    with parquet.ParquetFile(shard) as table:
        for batch in table.iter_batches(ROWS_IN_MEMORY):
            for row in batch.to_pylist():
                yield functools.partial(_of_row, row)


def _of_row(row: Mapping[str, Any]) -> Sample:
    """A sample of the first column that holds a picture's bytes, alone or as Hugging Face does."""
    for name, value in row.items():
        is_struct = isinstance(value, dict) and "bytes" in value
        content = value["bytes"] if is_struct else value
        if isinstance(content, bytes) and (is_struct or folded(name) in BYTES_KEYS):
            if len(content) > images.MAX_BYTES:
                raise Refusal(f"has {len(content):,} bytes, where {images.MAX_BYTES:,} are read")
            # whoever reads the file goes by its content, so that any suffix of a picture will do
            return Sample(content, ".png", caption_of(dict(row)).text)
    raise Refusal("is not in the row: give the table a column image of pictures' bytes")
