"""Data sets of a hub that is a local folder laid out like one."""

import errno
import io
import json
import os
import struct

import numpy as np
import pytest
from PIL import Image

from storyboard import artifacts, clean, collect
from storyboard.data import hub, hub_rows
from storyboard.errors import DatasetError, ResourceError
from tests.conftest import picture
from tests.dataset_hub_server import captioned_folder, png


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """The folder of someone/anime in a local stand-in for the hub."""
    monkeypatch.setenv(hub.LOCAL_ROOT, str(tmp_path / "hub"))
    return captioned_folder(tmp_path / "hub")


def test_a_data_set_is_streamed_sized_and_collected(local_hub, make_settings, capsys):
    captions = collect(make_settings(dataset="someone/anime"))
    assert [row.text for row in captions.rows] == [f"二次元 {seed}" for seed in range(5)]
    assert "MB" in capsys.readouterr().out


def test_a_broken_stream_goes_on_where_it_stopped(local_hub, tmp_path, monkeypatch):
    real = hub_rows.save

    def breaks_at_the_third(*row):
        if row[-1] == 2:
            raise KeyboardInterrupt
        return real(*row)

    monkeypatch.setattr(hub_rows, "save", breaks_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("someone/anime", tmp_path / "cache")
    folder = tmp_path / "cache" / "someone--anime"
    with (folder / "metadata.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"file_name": "0000')  # the break came in the middle of a line
    written = (folder / "000000.png").stat().st_mtime_ns
    monkeypatch.setattr(hub_rows, "save", real)
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
    ("value", "caption"),
    [("<__dj__image> 二次元 <|__dj__eoc|>", "二次元"), (["二次元", "女孩"], "二次元")],
)
def test_captions_of_other_programs_are_read_as_in_a_folder(
    local_hub, make_settings, value, caption
):
    listing = local_hub / "train" / "metadata.jsonl"
    rows = [json.loads(line) | {"text": value} for line in listing.read_text().splitlines()]
    listing.write_text("\n".join(map(json.dumps, rows)))
    captions = collect(make_settings(dataset="someone/anime"))
    assert [row.text for row in captions.rows] == [caption] * 5


def test_a_row_whose_caption_is_no_text_is_listed(local_hub, make_settings):
    listing = local_hub / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    for index, row in enumerate(rows):
        row["text"] = {"en": "a girl", "zh": "女孩" if index else None}
    listing.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DatasetError, match="row 0 has as its text an object with en, zh"):
        collect(make_settings(dataset="someone/anime"))


def damaged_exif() -> bytes:
    """A JPEG that asks to be turned, and whose resolution is text where numbers belong."""
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
    assert [row.text for row in captions.rows] == [
        f"二次元 {seed}" for seed in range(5) if readable or seed != 2
    ]
    assert [item.source for item in captions.unreadable] == ([] if readable else ["000002.png"])
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
    real = hub_rows.save
    monkeypatch.setattr(hub_rows, "save", lambda *row: real(*row) if row[-1] < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hub.fetch("someone/anime", tmp_path)
    monkeypatch.setattr(hub_rows, "save", real)
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

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_atomically", full)
        with pytest.raises(ResourceError, match="became full at picture 4 of someone/anime"):
            hub.fetch("someone/anime", tmp_path)
    listing = hub.fetch("someone/anime", tmp_path) / "metadata.jsonl"
    assert len(listing.read_text(encoding="utf-8").splitlines()) == 5


def test_a_size_is_an_upper_limit_where_the_files_are_not_known():
    source = hub.Source([], [], {"a": 2_000_000, "b": 0}, exact=False, holds=bool)
    assert str(source) == "at most 2.0 MB and 1 files of unknown size"
