"""Which files of a folder are looked at: odd names, links, pipes, kohya's projects."""

import os
from pathlib import Path

import pytest

from storyboard import collect
from storyboard.errors import DatasetError, StoryboardError
from tests.conftest import picture


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    picture(0, 32).save(folder / "whole.png")
    (folder / "whole.txt").write_text("a girl")
    return folder


@pytest.fixture
def read(data, make_settings):
    """Collect ``data``: captions by picture, and reasons by what was left out."""

    def call(**changes) -> tuple[dict, dict]:
        captions = collect(make_settings(dataset=str(data), **changes))
        texts = {row.source: row.text for row in captions.rows}
        return texts, {entry.source: entry.reason for entry in captions.unreadable}

    return call


NAMES = [
    ("紫发女孩".encode("gbk"), "\ufffdϷ\ufffdŮ\ufffd\ufffd"),
    ("紫发女孩".encode(), "紫发女孩"),
    (b"n" * 251, "n" * 251),
    ("紫".encode() * 83, "紫" * 83),
    (b"two\nlines", "two\ufffdlines"),
    (b"\x1b[31mred", "\ufffd[31mred"),
    (b"-rf *", "-rf *"),
    (b"back\\slash", "back\\slash"),
    (b"<script>", "<script>"),
]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_a_name_is_opened_by_its_bytes_and_shown_replaced(data, read, name, shown):
    (data / "whole.png").rename(data / os.fsdecode(name + b".png"))
    (data / "whole.txt").rename(data / os.fsdecode(name + b".txt"))
    assert read() == ({f"{shown}.png": "a girl"}, {})


@pytest.mark.parametrize(("template", "text"), [("{file} 画", ""), ("二次元", "二次元")])
def test_no_words_are_taken_from_a_name_that_is_no_text(data, read, template, text):
    (data / "whole.txt").unlink()
    (data / "whole.png").rename(data / os.fsdecode("女孩.png".encode("gbk")))
    assert list(read(caption_template=template)[0].values()) == [text]


def test_a_data_set_whose_own_name_is_no_text(data, make_settings):
    moved = data.rename(data.parent / os.fsdecode("女孩".encode("gbk")))
    assert [row.text for row in collect(make_settings(dataset=str(moved))).rows] == ["a girl"]


@pytest.mark.parametrize("name", ["a.png", "a.txt", "metadata.jsonl", "metadata.csv", "folder"])
@pytest.mark.parametrize("kind", ["file", "folder", "/dev/zero", "loop", "fifo"])
def test_nothing_is_read_through_links_out_pipes_and_devices(data, read, tmp_path, name, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    picture(1, 32).save(outside / "secret.png")
    (outside / "secret.txt").write_text("secret")
    secret = {"a.png": "secret.png"}.get(name, "secret.txt")
    targets = {"file": outside / secret, "folder": outside, "loop": data / name}
    if kind == "fifo":
        os.mkfifo(data / name)
    else:
        (data / name).symlink_to(targets.get(kind, kind))

    if name.startswith("metadata"):
        with pytest.raises(DatasetError, match=f"can be used: {name}: (is|cannot)"):
            read()
        return
    texts, reasons = read()
    assert texts == {"whole.png": "a girl"}
    if name != "a.txt" and not (name == "folder" and kind == "fifo"):
        assert list(reasons) == [name]


def test_a_link_that_stays_inside_is_followed(data, read):
    (data / "sub").mkdir()
    (data / "sub" / "b.png").symlink_to(data / "whole.png")
    (data / "sub" / "b.txt").symlink_to("../whole.txt")
    assert read() == ({"sub/b.png": "a girl", "whole.png": "a girl"}, {})


def test_the_data_set_itself_may_be_a_link(data, tmp_path, make_settings):
    (tmp_path / "link").symlink_to(data)
    (data / "metadata.jsonl").write_text(
        f'{{"file_name": "{tmp_path}/link/whole.png", "text": "a boy"}}'
    )
    captions = collect(make_settings(dataset=str(tmp_path / "link")))
    assert [row.text for row in captions.rows] == ["a boy"]


@pytest.mark.parametrize("pictures", ["img", "IMG", "image", ""])
def test_kohyas_project_gives_its_pictures_alone(data, read, pictures):
    (data / "whole.png").unlink()
    others = ["reg/1_girl/r.png", "model/sample/s.png", "log/l.png"]
    for name in [f"{pictures}/10_purple hair".strip("/") + "/a.png", *others]:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        picture(len(name), 32).save(data / name)
    texts, reasons = read()
    assert list(texts.values()) == ["purple hair"]
    assert reasons == {
        "log/l.png": "is part of a log in a project of kohya's",
        "model/sample/s.png": "is a sample of a training in a project of kohya's",
        "reg/1_girl/r.png": "is for regularisation in a project of kohya's",
    }


def test_folders_of_such_names_without_kohyas_form_are_read(data, read):
    (data / "reg").mkdir()
    picture(3, 32).save(data / "reg" / "r.png")
    assert len(read()[0]) == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("{data}/whole.png", "is a file: set dataset to the folder it lies in"),
        ("{data}/nowhere", "There is no folder"),
        ("~nobody-at-all/x", "is no path"),
        ("a\0b", "dataset="),
        ("x" * 5000, "dataset="),
    ],
)
def test_a_data_set_that_is_none_is_one_sentence(data, make_settings, dataset, message):
    with pytest.raises(StoryboardError, match=message) as error:
        collect(make_settings(dataset=dataset.format(data=data)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_folder_of_other_files_says_which(data, read):
    (data / "whole.png").rename(data / "whole.zip")
    with pytest.raises(DatasetError, match=r"No picture in .*holds other files \(1 .txt, 1 .zip\)"):
        read()
