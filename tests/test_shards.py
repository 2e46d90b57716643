"""Shards of a data set, WebDataset's tars and Parquet tables, where a folder has no pictures."""

import io
import json
import shutil
import tarfile

import pytest

from storyboard import collect
from storyboard.data import shards
from storyboard.errors import DatasetError, ResourceError
from tests.conftest import picture


def encoded(seed, kind="PNG"):
    content = io.BytesIO()
    picture(seed).save(content, kind)
    return content.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_table(path, rows):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def sharded(tmp_path):
    """Two tars and a table of two pictures each."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    write_tar(
        folder / "a-000.tar",
        [
            ("x/cat.jpg", encoded(0, "JPEG")),
            ("x/cat.txt", "画 0".encode()),
            ("x/cat.cls", b"7"),
            ("dog.json", json.dumps({"caption": "画 1"}).encode()),
            ("dog.png", encoded(1)),
        ],
    )
    write_tar(folder / "a-001.tar", [("2.png", encoded(2)), ("3.webp", encoded(3, "WEBP"))])
    rows = [{"image": {"bytes": encoded(n), "path": None}, "text": f"画 {n}"} for n in (4, 5)]
    write_table(folder / "b.parquet", rows)
    return folder


def settings_of(make_settings, folder, **changes):
    return make_settings(dataset=str(folder), caption_template="二次元", **changes)


def test_pictures_and_captions_of_all_shards_are_collected(sharded, make_settings, capsys):
    settings = settings_of(make_settings, sharded)
    captions = collect(settings)
    assert [row.text for row in captions.rows] == [
        "画 0",
        "画 1",
        "二次元",
        "二次元",
        "画 4",
        "画 5",
    ]
    assert captions.path(captions.rows[0]).read_bytes() == encoded(0, "JPEG")
    assert not captions.unreadable

    collect(settings)
    assert "collect: nothing to do" in capsys.readouterr().out


def test_a_machine_that_does_not_see_a_shard_is_refused(tmp_path):
    row = {"shard": str(tmp_path / "a.tar"), "changed": 1, "target": str(tmp_path / "out")}
    with pytest.raises(
        ResourceError, match="of the cluster does not see .*a.tar: put the data set"
    ):
        shards.Unpacker(elsewhere=True)(row)


def test_only_a_shard_that_changed_is_unpacked_again(sharded, make_settings, capsys):
    settings = settings_of(make_settings, sharded)
    collect(settings)
    write_tar(sharded / "a-001.tar", [("9.png", encoded(9))])
    capsys.readouterr()
    assert len(collect(settings)) == 5
    assert "unpacking 1 shards" in capsys.readouterr().out
    assert len(list((settings.folder / "unpacked").iterdir())) == 3


def test_shards_unpacked_anew_are_the_same(sharded, make_settings, capsys):
    settings = settings_of(make_settings, sharded)
    collect(settings)
    shutil.rmtree(settings.folder / "unpacked")
    collect(settings)
    assert "collect: nothing to do" in capsys.readouterr().out


def test_columns_of_plain_bytes_are_pictures(tmp_path, make_settings):
    folder = tmp_path / "table"
    folder.mkdir()
    rows = [{"key": b"no", "jpg": encoded(n, "JPEG"), "Caption": f"画 {n}"} for n in range(3)]
    write_table(folder / "part.parquet", rows)
    captions = collect(settings_of(make_settings, folder))
    assert [row.text for row in captions.rows] == ["画 0", "画 1", "画 2"]


def test_no_member_is_written_outside_nor_a_link_followed(tmp_path, make_settings):
    folder = tmp_path / "odd"
    folder.mkdir()
    with tarfile.open(folder / "odd.tar", "w") as archive:
        for name in ("../../out.png", "/tmp/storyboard-out.png", "good.png"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded(1))
            archive.addfile(member, io.BytesIO(encoded(1)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    captions = collect(settings_of(make_settings, folder))
    assert len(captions) == 3 and not captions.unreadable
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)


def test_what_is_damaged_costs_only_itself(sharded, make_settings):
    whole = (sharded / "a-000.tar").read_bytes()
    (sharded / "a-000.tar").write_bytes(whole[: whole.index(b"dog.png") + 2000])
    (sharded / "b.parquet").write_bytes((sharded / "b.parquet").read_bytes()[:-100])
    write_tar(sharded / "c.tar", [("7.png", encoded(7)[:500]), ("8.png", encoded(8))])
    captions = collect(settings_of(make_settings, sharded))
    assert [row.text for row in captions.rows] == ["画 0", "二次元", "二次元", "二次元"]
    reasons = [(each.source, each.reason.partition(" (")[0]) for each in captions.unreadable]
    assert reasons[:3] == [
        ("a-000.tar picture 2", "is damaged"),
        ("a-000.tar picture 3", "is damaged from there on"),
        ("b.parquet picture 1", "is damaged from there on"),
    ]
    assert len(reasons) == 4 and "cut off" in reasons[3][1]


def test_a_member_larger_than_pictures_may_be_is_not_read(sharded, make_settings, monkeypatch):
    monkeypatch.setattr(shards.images, "MAX_BYTES", len(encoded(2)) - 1)
    write_tar(sharded / "a-001.tar", [("2.png", encoded(2)), ("3.txt", b"")])
    captions = collect(settings_of(make_settings, sharded))
    assert [entry.source for entry in captions.unreadable if "bytes, where" in entry.reason]


def test_a_folder_with_pictures_is_read_without_its_shards(sharded, make_settings):
    picture(9).save(sharded / "9.png")
    assert len(collect(settings_of(make_settings, sharded))) == 1


def test_shards_without_pictures_are_said(tmp_path, make_settings):
    (tmp_path / "texts").mkdir()
    write_tar(tmp_path / "texts" / "a.tar", [("1.txt", b"one")])
    with pytest.raises(DatasetError, match="a.tar picture 1: is not there: a tar holds name.jpg"):
        collect(settings_of(make_settings, tmp_path / "texts"))
