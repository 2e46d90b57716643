"""Captions in files beside pictures: their names, their encodings, and what is damaged."""

import json
import time
from pathlib import Path

import pytest

from storyboard import collect
from storyboard.data import captioning, text_files
from storyboard.data.text_files import Refusal
from storyboard.errors import DatasetError
from tests.conftest import picture

GIRL = "紫色短发女孩，微笑"


@pytest.fixture
def read(tmp_path, make_settings):
    """Collect pictures of the given names with files of the given contents beside them."""

    def call(files: dict[str, bytes | str], pictures=("a.png", "whole.png")):
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        for seed, name in enumerate(pictures):
            picture(seed, 32).save(data / name)
        for name, content in files.items():
            (data / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return collect(make_settings(dataset=str(data)))

    return call


def texts_of(captions) -> dict:
    return {row.source: row.text for row in captions.rows}


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "a girl"},
        {"a.TXT": "a girl"},
        {"A.txt": "a girl"},
        {"a.png.txt": "a girl"},
        {"a.caption": "a girl"},
        {"a.Caption": "a girl"},
        {"a.tags": "a girl"},
        {"a.json": json.dumps({"caption": "a girl", "width": 3})},
        {"a.png.json": json.dumps({"text": ["a girl"]})},
        {"a.json": json.dumps("a girl")},
        {"a.txt": "", "a.caption": "a girl"},
        {"a.txt": " \n", "a.json": json.dumps({"prompt": "a girl"})},
        {"a.txt": b"\xff\xff\xff", "a.caption": "a girl"},
        {"a.txt": "a girl", "a.json": "{"},
        {"a.txt": "<__dj__image> a girl <|__dj__eoc|>"},
    ],
)
def test_a_caption_is_found_under_the_names_of_other_tools(read, files):
    captions = read(files)
    assert texts_of(captions) == {"a.png": "a girl", "whole.png": ""}
    assert not captions.unreadable and not captions.notes


def test_the_first_of_two_captions_is_taken_which_is_noted(read):
    captions = read({"a.txt": "a girl", "a.caption": "a boy", "README.txt": "about", "b.json": "{"})
    assert texts_of(captions)["a.png"] == "a girl"
    assert [(note.source, note.text) for note in captions.notes] == [
        ("README.txt", "is a caption file, and there is no picture of its name"),
        ("a.png", "has another caption in a second file, which is not read"),
    ]


def test_names_with_dots_and_of_the_same_stem(read):
    names = ("v1.5 girl.final.png", "photo.png.crop.png", "B.png", "b.png")
    files = {f"{Path(name).stem}.txt": name for name in names}
    assert texts_of(read(files, names)) == {name: name for name in names}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((GIRL, encoding) for encoding in ("gb18030", "gbk", "utf-16-le", "utf-16-be")),
        ("红发女孩", "utf-16-le"),
        ("二次元", "gbk"),
        ("女孩", "gbk"),
        ("联通", "gbk"),
        ("1girl, 微笑, solo", "gbk"),
        ("a girl, smiling", "utf-16-le"),
        ("a girl, smiling", "utf-16-be"),
        ("紫の髪の女の子、微笑み", "shift_jis"),
        ("青い目", "shift_jis"),
        ("보라색 머리 소녀", "euc_kr"),
        ("紫色短髮女孩，微笑", "big5"),
        ("the girl’s hat, red", "cp1252"),
        ("a cat called “Mimi”", "cp1252"),
        ("a girl in a café, a glacé cherry", "latin-1"),
        ("Mädchen mit großen Augen, müde", "latin-1"),
        ("à la mode", "latin-1"),
        ("девушка с красными волосами", "cp1251"),
    ],
)
def test_an_encoding_is_guessed_and_said_with_an_example(read, text, encoding):
    captions = read({"a.txt": text.encode(encoding)})
    assert texts_of(captions)["a.png"] == text
    (note,) = captions.notes
    assert note.source == "a.png" and "a guess" in note.text and note.example == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_is_marked_is_no_guess(read, encoding):
    captions = read({"a.txt": GIRL.encode(encoding)})
    assert texts_of(captions)["a.png"] == GIRL and not captions.notes


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a girl\0\0", "a girl"),
        (b"a\0girl", "a girl"),
        (GIRL.encode()[:-1], GIRL[:-1]),
        (GIRL.encode("gbk")[:-1], GIRL[:-1]),
        (GIRL.encode("utf-16") + b"\0", GIRL),
        (b"a boy \xed\xa0\xbd", "a boy"),
        ("a \ufffdgirl".encode(), "a girl"),
        ("caf\u00c3\u00a9".encode(), "café"),
    ],
)
def test_a_damaged_text_is_repaired_and_noted(read, content, text):
    captions = read({"a.txt": content})
    assert texts_of(captions)["a.png"] == text and len(captions.notes) == 1


def test_halves_of_a_sign_that_were_saved_one_by_one_are_joined(read):
    captions = read({"a.txt": b"a boy \xed\xa0\xbd\xed\xb8\x80"})
    assert texts_of(captions)["a.png"] == "a boy \U0001f600" and not captions.notes


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.txt": b"\xff\xff\xff"}, "its caption a.txt is in no encoding that can be told"),
        ({"a.txt": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}, "a.txt is in no encoding"),
        ({"a.txt": "a" * 10_001}, "a.txt has 10,001 characters, where a caption may have 10,000"),
        ({"a.txt": "a" * (2**20 + 1)}, "a.txt has 1,048,577 bytes, where 1,048,576 are read"),
        ({"a.json": "{"}, "a.json is not JSON"),
        ({"a.json": "[" * 100_000}, "a.json is JSON that is nested too deeply"),
        ({"a.json": '{"text": {"en": "a", "zh": "b"}}'}, "a.json has as its text an object"),
        ({"a.json": '{"caption": true}'}, "a.json has as its caption no text but True"),
    ],
)
def test_a_caption_that_cannot_be_read_costs_its_picture_alone(read, files, reason):
    captions = read(files)
    assert texts_of(captions) == {"whole.png": ""}
    (entry,) = captions.unreadable
    assert entry.source == "a.png" and reason in entry.reason


def test_where_nothing_is_left_the_reasons_are_in_the_message(read):
    with pytest.raises(
        DatasetError, match=r"No picture of .* can be used: a.png: its caption a.txt"
    ):
        read({"a.txt": b"\xff\xff\xff"}, ["a.png"])


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "missing.txt", ".", "a.txt"])
def test_no_caption_is_read_through_a_link_out_of_the_folder(read, tmp_path, target):
    (tmp_path / "secret.txt").write_text("secret words")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").symlink_to(target)
    captions = read({})
    assert texts_of(captions) == {"whole.png": ""}
    assert "a.txt" in captions.unreadable[0].reason


@pytest.mark.parametrize("length", [10_000, 1_000_000])
@pytest.mark.parametrize("sign", ["0", "a ", " ", "<__dj__", "图", "'", "\0", "é", "("])
def test_long_captions_take_linear_time(sign, length):
    content = (sign * (length // len(sign)) + "a").encode()
    began = time.process_time()
    try:
        captioning.is_placeholder(text_files.caption(text_files.decode(content).text).text)
        captioning.is_placeholder(content.decode())
    except Refusal:
        pass
    assert time.process_time() - began < 2
