"""The forms in which a folder may name its pictures and their captions."""

import csv
import json
from pathlib import Path

import pytest

from storyboard import collect
from storyboard.errors import DatasetError
from tests.conftest import picture


def test_txt_files_beside_pictures(folder, make_settings):
    captions = collect(make_settings(dataset=str(folder)))
    assert [row.text for row in captions.rows] == [f"画 {seed}" for seed in range(10)]
    assert all(
        captions.path(row).is_file() and not Path(row.image).is_absolute() for row in captions.rows
    )


@pytest.mark.parametrize("listing", ["metadata.jsonl", "metadata.csv"])
def test_metadata_files(folder, make_settings, listing):
    rows = [{"file_name": f"{seed}.png", "text": f"图 {seed}，好"} for seed in (3, 1)]
    with (folder / listing).open("w", encoding="utf-8", newline="") as lines:
        if listing.endswith("jsonl"):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(lines, ["file_name", "text"])
            table.writeheader(), table.writerows(rows)
    captions = collect(make_settings(dataset=str(folder)))
    assert [row.text for row in captions.rows] == ["图 3，好", "图 1，好"]


def test_what_was_made_is_not_collected_again(folder, make_settings):
    settings = make_settings(dataset=str(folder), output=str(folder / "outputs"))
    (folder / ".hidden").mkdir()
    picture(70).save(folder / ".hidden" / "x.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert [len(collect(settings)) for _ in range(2)] == [10, 10]


def test_kohyas_caption_files_and_unusual_line_ends(folder, make_settings):
    (folder / "0.txt").rename(folder / "0.caption")
    assert collect(make_settings(dataset=str(folder))).rows[0].text == "画 0"
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "1.png", "text": "a\u2028b"}, ensure_ascii=False), encoding="utf-8"
    )
    assert collect(make_settings(dataset=str(folder))).rows[0].text == "a\u2028b"


def test_paths_stay_inside_the_folder(folder, make_settings, tmp_path):
    picture(60).save(tmp_path / "secret.png")
    rows = [
        {"file_name": "../secret.png", "text": "out"},
        {"file_name": str(tmp_path / "secret.png"), "text": "out"},
        {"file_name": "1.png", "text": "in"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = collect(make_settings(dataset=str(folder)))
    assert (
        len(captions) == 1
        and [item.reason for item in captions.unreadable] == ["lies outside the folder"] * 2
    )


def test_captions_saved_by_a_chinese_windows_editor(folder, make_settings):
    (folder / "0.txt").write_bytes("二次元，女孩".encode("gb18030"))
    (folder / "1.txt").write_bytes("二次元".encode("utf-8-sig"))
    assert [row.text for row in collect(make_settings(dataset=str(folder))).rows[:2]] == [
        "二次元，女孩",
        "二次元",
    ]
    (folder / "2.txt").write_bytes(b"\xff\xff\xff")
    with pytest.raises(DatasetError, match="2.txt is neither UTF-8 nor GB 18030"):
        collect(make_settings(dataset=str(folder)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{half", "Line 1 of .* is not JSON"),
        ("[1]", "is not an object"),
        ('{"text": "a"}', "names no picture"),
    ],
)
def test_a_wrong_metadata_line_is_named(folder, make_settings, line, said):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=said):
        collect(make_settings(dataset=str(folder)))
