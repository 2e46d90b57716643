"""The hub is a local folder laid out like one, or a server over such a folder; everything else is real, ModelScope's client included."""

import errno
import inspect
import io
import json
import os
import struct
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from storyboard import artifacts, clean, collect
from storyboard.compat import modelscope
from storyboard.data import hub
from storyboard.errors import DatasetError, ResourceError
from tests import dataset_hub_server
from tests.conftest import picture


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "someone" / "anime"
    (repository / "train").mkdir(parents=True)
    rows = []
    for seed in range(5):
        picture(seed).save(repository / "train" / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "text": f"二次元 {seed}"})
    (repository / "train" / "metadata.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    monkeypatch.setenv(hub.LOCAL_ROOT, str(tmp_path / "hub"))
    return repository


def test_a_data_set_is_streamed_sized_and_collected(local_hub, make_settings, capsys):
    captions = collect(make_settings(dataset="someone/anime"))
    assert [row["text"] for row in captions.rows] == [f"二次元 {seed}" for seed in range(5)]
    assert "MB" in capsys.readouterr().out


def test_a_broken_stream_goes_on_where_it_stopped(local_hub, tmp_path, monkeypatch):
    real = hub._save

    def breaks_at_the_third(*row):
        if row[-1] == 2:
            raise KeyboardInterrupt
        return real(*row)

    monkeypatch.setattr(hub, "_save", breaks_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("someone/anime", tmp_path / "cache")
    folder = tmp_path / "cache" / "someone--anime"
    with open(folder / "metadata.jsonl", "a", encoding="utf-8") as lines:
        lines.write('{"file_name": "0000')  # the break came in the middle of a line
    written = (folder / "000000.png").stat().st_mtime_ns
    monkeypatch.setattr(hub, "_save", real)
    assert hub.fetch("someone/anime", tmp_path / "cache") == folder
    rows = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["text"] for row in rows] == [f"二次元 {seed}" for seed in range(5)]
    assert (folder / "000000.png").stat().st_mtime_ns == written


def test_the_hub_can_be_asked_after_cleaning_in_the_same_kernel(local_hub, folder, make_settings):
    import datasets
    import huggingface_hub.constants

    settings = make_settings(dataset=str(folder))
    clean(collect(settings), settings)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_missing_data_set_is_one_sentence(local_hub, make_settings):
    with pytest.raises(DatasetError, match="holds no someone/else"):
        collect(make_settings(dataset="someone/else"))


@pytest.mark.parametrize(
    ("text", "is_id"),
    [("AI-ModelScope/lowres_anime", True), ("/tmp/x", False), ("a/b/c", False), ("one", False)],
)
def test_ids_are_told_from_paths(text, is_id):
    assert hub.looks_like_id(text) is is_id


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def noise(seed: int) -> bytes:
    """0.2 MB of PNG."""
    return png(
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8))
    )


def damaged_exif() -> bytes:
    """A JPEG that asks to be turned, with an entry beside that (its resolution) which is text where numbers belong."""
    content = io.BytesIO()
    picture(9).save(content, "JPEG")
    turned, resolution = (
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
        struct.pack("<HHI", 0x011A, 2, 3) + b"72\0\0",
    )
    block = (
        b"Exif\0\0II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", 2)
        + turned
        + resolution
        + b"\0\0\0\0"
    )
    return (
        content.getvalue()[:2]
        + b"\xff\xe1"
        + struct.pack(">H", len(block) + 2)
        + block
        + content.getvalue()[2:]
    )


SPOILT = {
    "cut": lambda: png(picture(2))[:2000],
    "html": lambda: b"<html>404</html>",
    "empty": lambda: b"",
    "exif": damaged_exif,
    "grey16": lambda: png(
        Image.fromarray(np.asarray(picture(2).convert("L")).astype(np.uint16) * 257)
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_one_spoilt_picture_is_listed_and_never_asked_for_again(
    local_hub, make_settings, kind, capsys
):
    (local_hub / "train" / "2.png").write_bytes(SPOILT[kind]())
    settings = make_settings(dataset="someone/anime")
    captions = collect(settings)
    readable = kind in ("exif", "grey16")
    assert [row["text"] for row in captions.rows] == [
        f"二次元 {seed}" for seed in range(5) if readable or seed != 2
    ]
    assert [item["source"] for item in captions.unreadable] == ([] if readable else ["000002.png"])
    if kind == "grey16":
        with Image.open(captions.path(captions.rows[2])) as image:
            assert (np.asarray(image.convert("L")) == np.asarray(picture(2).convert("L"))).all()
    capsys.readouterr()
    assert (
        collect(settings).digest == captions.digest and "nothing to do" in capsys.readouterr().out
    )


def test_a_stream_that_breaks_after_a_spoilt_picture_goes_on_behind_it(
    local_hub, tmp_path, monkeypatch
):
    (local_hub / "train" / "1.png").write_bytes(b"<html>404</html>")
    real = hub._save
    monkeypatch.setattr(hub, "_save", lambda *row: real(*row) if row[-1] < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hub.fetch("someone/anime", tmp_path)
    monkeypatch.setattr(hub, "_save", real)
    folder = hub.fetch("someone/anime", tmp_path)
    rows = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(row["file_name"], row["text"]) for row in rows] == [
        (f"{n:06d}.png", f"二次元 {n}") for n in range(5)
    ]


def test_a_full_disk_is_said_and_the_stream_goes_on_when_there_is_room(
    local_hub, tmp_path, monkeypatch
):
    def full(path, content, real=artifacts.write_atomically):
        if path.name == "000003.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    with (
        monkeypatch.context() as patch,
        pytest.raises(ResourceError, match="became full at picture 4 of someone/anime"),
    ):
        patch.setattr(artifacts, "write_atomically", full)
        hub.fetch("someone/anime", tmp_path)
    assert (
        len(
            (hub.fetch("someone/anime", tmp_path) / "metadata.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        == 5
    )


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
dataset_info:
  features:
  - name: image
    dtype: image
  - name: author
    dtype: string
{text}---
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """(pictures, captioned=True, listed=True) -> a hub that serves them as someone/anime: a split in parts, and stale files beside it."""
    import pyarrow
    import pyarrow.parquet

    running = []

    def serve(
        pictures: list, captioned: bool = True, listed: bool = True
    ) -> dataset_hub_server.DatasetHub:
        rows = [
            {"image": content and {"bytes": content, "path": f"{n}.png"}, "author": "nobody"}
            | ({"text": f"1girl, {n}"} if captioned else {})
            for n, content in enumerate(pictures)
        ]
        folder = tmp_path / "served" / "someone" / "anime"
        (folder / "data").mkdir(parents=True)
        parts = {
            "train-00000-of-00002": rows[:3],
            "train-00001-of-00002": rows[3:],
            "stale-00000-of-00001": rows * 5,
        }
        for name, part in parts.items():
            pyarrow.parquet.write_table(
                pyarrow.Table.from_pylist(part), folder / "data" / f"{name}.parquet"
            )
        text = "  - name: text\n    dtype: string\n" if captioned else ""
        (folder / "README.md").write_text(CARD.format(text=text))
        running.append(dataset_hub_server.DatasetHub(tmp_path / "served", listed))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running[-1].url)
        return running[-1]

    monkeypatch.delenv(hub.LOCAL_ROOT, raising=False)
    yield serve
    for each in running:
        each.close()


def megabytes(server, pattern: str) -> str:
    return f"{sum(path.stat().st_size for path in server.root.rglob(pattern)) / 1e6:,.1f} MB"


def state() -> list:
    """What ModelScope's client may have changed in other libraries."""
    from datasets import DownloadManager
    from datasets.features import features
    from huggingface_hub import HfApi, HfFileSystem, constants, hf_file_system
    from huggingface_hub.hf_file_system import HfFileSystemFile

    owners = (
        HfApi,
        HfFileSystem,
        HfFileSystemFile,
        DownloadManager,
        constants,
        hf_file_system,
        features,
    )
    functions = [
        {name: value for name, value in vars(owner).items() if callable(value)} for owner in owners
    ]
    return [
        *functions,
        *((name, inspect.getattr_static(owner, name)) for owner, name in modelscope._replaced()),
    ]


@pytest.mark.parametrize("broken_off", [False, True])
def test_other_libraries_are_as_before_after_a_stream(served, tmp_path, broken_off, monkeypatch):
    import modelscope.msdatasets.utils.hf_datasets_util  # noqa: F401  (what it does when it is imported is not the stream's)

    served([png(picture(n)) for n in range(4)])
    before = state()
    if broken_off:
        monkeypatch.setattr(hub, "_save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hub.fetch("someone/anime", tmp_path / "cache")
    else:
        hub.fetch("someone/anime", tmp_path / "cache")
    assert state() == before


def test_a_stream_says_how_large_its_own_files_are_and_reads_no_others(served, tmp_path, capsys):
    server = served([noise(n) for n in range(5)])
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    assert f"from ModelScope ({megabytes(server, 'train-*')}) into" in capsys.readouterr().out
    assert [path.read_bytes() for path in sorted(folder.glob("*.png"))] == [
        noise(n) for n in range(5)
    ]
    assert not any("stale" in path for _, path in server.asked)


@pytest.mark.parametrize("listed", [True, False])
def test_pictures_that_lie_beside_a_listing_are_fetched_one_by_one(
    local_hub, tmp_path, monkeypatch, listed
):
    (local_hub / "train" / "2.png").write_bytes(b"<html>404</html>")
    server = dataset_hub_server.DatasetHub(local_hub.parents[1], listed)
    monkeypatch.delenv(hub.LOCAL_ROOT)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    server.close()
    rows = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["text"] for row in rows] == [f"二次元 {seed}" for seed in range(5)]
    assert [(folder / row["file_name"]).read_bytes() for row in rows] == [
        (local_hub / "train" / f"{n}.png").read_bytes() for n in range(5)
    ]


def test_sizes_that_are_not_listed_are_asked_for(served, tmp_path, capsys):
    server = served([noise(n) for n in range(5)], listed=False)
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    assert (
        f"from ModelScope ({megabytes(server, 'train-*')}) into" in capsys.readouterr().out
        and len(list(folder.glob("*.png"))) == 5
    )


def test_a_size_is_an_upper_limit_where_the_files_are_not_known():
    source = hub.Source([], [], {"a": 2_000_000, "b": 0}, exact=False, holds=bool)
    assert str(source) == "at most 2.0 MB and 1 files of unknown size"


def test_the_disk_is_asked_for_the_split_alone(served, tmp_path, monkeypatch):
    server, needed = served([noise(n) for n in range(5)]), []
    monkeypatch.setattr(
        artifacts, "free_space_needed", lambda folder, size: needed.append(size) or 7 * 10**6
    )
    with pytest.raises(ResourceError, match="7 MB more than the disk of"):
        hub.fetch("someone/anime", tmp_path / "cache")
    assert needed == [sum(path.stat().st_size for path in server.root.rglob("train-*"))]


def test_a_network_that_falls_silent_is_said_in_time_and_the_stream_goes_on(
    served, tmp_path, monkeypatch
):
    assert (
        20 < modelscope.TIMEOUT * (1 + modelscope.RETRIES["max_retries"]) + 2 + 4 < 40
    )  # seconds, with the waits between
    server = served([png(picture(n)) for n in range(5)])
    server.silent = "train-00001-of-00002.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(modelscope, "TIMEOUT", 0.2)
        patch.setattr(modelscope, "RETRIES", modelscope.RETRIES | {"base_wait_time": 0.1})
        begin = time.monotonic()
        with pytest.raises(
            DatasetError, match="someone/anime broke off after 3 pictures .*run this cell again"
        ) as error:
            hub.fetch("someone/anime", tmp_path / "cache")
    assert time.monotonic() - begin < 15 and "\n" not in str(error.value)
    server.silent = None
    assert len(list(hub.fetch("someone/anime", tmp_path / "cache").glob("*.png"))) == 5


def test_a_hub_that_is_not_there_is_one_sentence(served, tmp_path):
    served([png(picture(0))]).close()
    with pytest.raises(
        DatasetError, match="someone/anime cannot be read .*check the name and the network"
    ) as error:
        hub.fetch("someone/anime", tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_rows_without_captions_or_pictures_are_named(served, make_settings, capsys):
    served([png(picture(0)), None, b"<html>", png(picture(1))], captioned=False)
    settings = make_settings(dataset="someone/anime")
    captions = collect(settings)
    said = capsys.readouterr().out
    assert (
        "someone/anime has the columns image, author and no captions in text, caption, prompt: set caption_template"
        in said
    )
    assert [item["source"] for item in captions.unreadable] == ["000001.png", "000002.png"]
    assert captions.unreadable[0]["reason"] == "row 1: it holds no picture"
    with pytest.raises(DatasetError, match="2 have no caption: set caption_template or captioner"):
        clean(captions, settings)


def test_a_row_cannot_name_a_file_of_this_machine(tmp_path):
    (tmp_path / "secret.png").write_bytes(noise(0))
    row = {"bytes": None, "path": str(tmp_path / "secret.png")}
    inside = "hf://datasets/someone/anime@"
    with pytest.raises(FileNotFoundError, match="secret.png is not in the data set"):
        hub._content(row, lambda path: path.startswith(inside))
    with pytest.raises(
        FileNotFoundError, match="not in the data set"
    ):  # datasets would open the first hop
        hub._content(
            row | {"path": f"{row['path']}::{inside}main/pictures.zip"},
            lambda path: path.startswith(inside),
        )
    assert hub._content(row, lambda path: True) == noise(0)


def test_a_picture_in_an_archive_of_the_data_set_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", noise(1))
    path = f"zip://a.png::{tmp_path / 'pictures.zip'}"
    assert hub._content(
        {"bytes": None, "path": path}, lambda outside: outside.endswith("pictures.zip")
    ) == noise(1)
