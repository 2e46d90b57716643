"""Rows of a hub's data set: what they hold is written, what they lack is listed."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from storyboard import collect, images
from storyboard.data import hub_rows
from tests.conftest import picture
from tests.picture_files import encoded

GOOD = encoded(picture(1, 64), "PNG")


def test_half_a_line_is_cut_off_inside_a_character_too(tmp_path):
    listing = tmp_path / "metadata.jsonl"
    whole = json.dumps({"text": "紫发"}, ensure_ascii=False).encode() + b"\n"
    for cut in range(len(whole)):
        listing.write_bytes(whole + whole[:cut])
        assert hub_rows.repair(listing) == 1 and listing.read_bytes() == whole
    assert hub_rows.repair(tmp_path / "none.jsonl") == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "it holds no picture"),
        ({"bytes": b"", "path": None}, "it holds no picture"),
        ({"bytes": [137, 80], "path": None}, "it holds no picture"),
        ({"bytes": None, "path": "a\0.png"}, "it holds no picture"),
        ({"bytes": None, "path": 7}, "it holds no picture"),
        ({"bytes": None, "path": "pipe.png"}, "a named pipe, not a file"),
        ({"bytes": None, "path": "folder.png"}, "a folder, not a file"),
        ({"bytes": None, "path": "none.png"}, "no such file"),
        ({"bytes": None, "path": "large.png"}, "has more than"),
        ({"bytes": None, "path": "/etc/passwd"}, "is not in the data set"),
    ],
)
def test_a_row_without_a_picture_is_listed_with_its_reason(row, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    os.mkfifo("pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "large.png").write_bytes(bytes(1001))
    line = hub_rows.save(row, lambda path: not path.startswith("/"), tmp_path, 3)
    assert line["reason"].startswith("row 3: ") and reason in line["reason"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.JFIF", "000003.jfif"),
        ("b.exe", "000003.png"),
        (None, "000003.png"),
    ],
)
def test_a_picture_is_written_as_it_is_under_a_picture_s_suffix(path, name, tmp_path):
    line = hub_rows.save({"bytes": GOOD, "path": path}, bool, tmp_path, 3)
    assert line == {"file_name": name} and (tmp_path / name).read_bytes() == GOOD


def test_pictures_of_a_hub_are_read_as_any_others(tmp_path, monkeypatch, make_settings):
    """16 bits are scaled, damaged metadata noted, damaged pixels listed."""
    folder = tmp_path / "hub" / "someone" / "odd" / "train"
    folder.mkdir(parents=True)
    grey = np.asarray(picture(2, 64).convert("L"))
    contents = {
        "0.png": GOOD,
        "1.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "2.png": encoded(picture(3, 64), "PNG", icc_profile=b"none"),
        "3.png": GOOD[:200] + bytes(50) + GOOD[250:],
    }
    lines = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        lines.append(json.dumps({"file_name": name, "text": f"picture {name}"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    monkeypatch.setenv("STORYBOARD_HUB", str(tmp_path / "hub"))

    captions = collect(make_settings(dataset="someone/odd"))
    assert [row.text for row in captions.rows] == [f"picture {number}.png" for number in range(3)]
    with Image.open(captions.path(captions.rows[1])) as image:
        assert (np.asarray(image.convert("L")) == grey).all()
    assert [note.source for note in captions.notes] == ["000002.png"]
    assert "wrong checksum" in captions.unreadable[0].reason and len(captions.unreadable) == 1
