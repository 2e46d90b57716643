"""Data sets streamed from a server that answers as ModelScope does, by ModelScope's own client."""

import inspect
import json
import time

import pytest

from storyboard import artifacts, clean, collect
from storyboard.compat import modelscope
from storyboard.data import hub, hub_rows
from storyboard.errors import DatasetError, ResourceError
from tests.conftest import picture
from tests.dataset_hub_server import DatasetHub, captioned_folder, noise, png

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
    """A hub that serves given pictures as someone/anime: a split in parts, and stale files."""
    import pyarrow
    import pyarrow.parquet

    running = []

    def serve(pictures: list, captioned: bool = True, listed: bool = True) -> DatasetHub:
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
        running.append(DatasetHub(tmp_path / "served", listed))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running[-1].url)
        return running[-1]

    monkeypatch.delenv(hub.LOCAL_ROOT, raising=False)
    yield serve
    for each in running:
        each.close()


def megabytes(server, pattern: str) -> str:
    return f"{sum(path.stat().st_size for path in server.root.rglob(pattern)) / 1e6:,.1f} MB"


def test_a_stream_says_how_large_its_own_files_are_and_reads_no_others(served, tmp_path, capsys):
    server = served([noise(n) for n in range(5)])
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    assert f"from ModelScope ({megabytes(server, 'train-*')}) into" in capsys.readouterr().out
    assert [path.read_bytes() for path in sorted(folder.glob("*.png"))] == [
        noise(n) for n in range(5)
    ]
    assert not any("stale" in path for _, path in server.asked)


@pytest.mark.slow
@pytest.mark.parametrize("listed", [True, False])
def test_pictures_that_lie_beside_a_listing_are_fetched_one_by_one(tmp_path, monkeypatch, listed):
    pictures = captioned_folder(tmp_path / "served") / "train"
    (pictures / "2.png").write_bytes(b"<html>404</html>")
    server = DatasetHub(tmp_path / "served", listed)
    monkeypatch.delenv(hub.LOCAL_ROOT, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    server.close()
    rows = [
        json.loads(line)
        for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["text"] for row in rows] == [f"二次元 {seed}" for seed in range(5)]
    assert [(folder / row["file_name"]).read_bytes() for row in rows] == [
        (pictures / f"{n}.png").read_bytes() for n in range(5)
    ]


def test_sizes_that_are_not_listed_are_asked_for(served, tmp_path, capsys):
    server = served([noise(n) for n in range(5)], listed=False)
    folder = hub.fetch("someone/anime", tmp_path / "cache")
    assert (
        f"from ModelScope ({megabytes(server, 'train-*')}) into" in capsys.readouterr().out
        and len(list(folder.glob("*.png"))) == 5
    )


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
        "someone/anime has the columns image, author and no captions in text, caption, " in said
        and "set caption_template" in said
    )
    assert [item.source for item in captions.unreadable] == ["000001.png", "000002.png"]
    assert captions.unreadable[0].reason == "row 1: it holds no picture"
    with pytest.raises(DatasetError, match="2 have no caption: set caption_template or captioner"):
        clean(captions, settings)


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
    # what it does when it is imported is not the stream's
    import modelscope.msdatasets.utils.hf_datasets_util  # noqa: F401

    served([png(picture(n)) for n in range(4)])
    before = state()
    if broken_off:
        monkeypatch.setattr(hub_rows, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hub.fetch("someone/anime", tmp_path / "cache")
    else:
        hub.fetch("someone/anime", tmp_path / "cache")
    assert state() == before
