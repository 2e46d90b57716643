"""Listings: every form in which a file names pictures and their captions."""

import csv
import json
from pathlib import Path

import pytest

from storyboard import collect
from storyboard.errors import DatasetError
from tests.conftest import picture


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with the pictures 0.png to 3.png, without captions."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in range(4):
        picture(seed, 32).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def read(data, make_settings):
    """Collect ``data``, or ``folder``: captions by picture, reasons by what was left out, notes."""

    def call(folder: Path = data) -> tuple[dict, dict, list]:
        captions = collect(make_settings(dataset=str(folder)))
        texts = {row.source: row.text for row in captions.rows}
        reasons = {entry.source: entry.reason for entry in captions.unreadable}
        return texts, reasons, captions.notes

    return call


def test_txt_files_beside_pictures(folder, make_settings):
    captions = collect(make_settings(dataset=str(folder)))
    assert [row.text for row in captions.rows] == [f"画 {seed}" for seed in range(10)]
    assert all(
        captions.path(row).is_file() and not Path(row.image).is_absolute() for row in captions.rows
    )


@pytest.mark.parametrize("listing", ["metadata.jsonl", "metadata.csv", "METADATA.JSONL"])
def test_metadata_files_and_what_they_do_not_name(data, read, listing):
    rows = [{"file_name": f"{seed}.png", "text": f"图 {seed}，好"} for seed in (3, 1)]
    with (data / listing).open("w", encoding="utf-8", newline="") as lines:
        if listing.endswith("csv"):
            table = csv.DictWriter(lines, ["file_name", "text"])
            table.writeheader(), table.writerows(rows)
        else:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    texts, reasons, _ = read()
    assert list(texts.items()) == [("3.png", "图 3，好"), ("1.png", "图 1，好")]
    assert reasons == dict.fromkeys(("0.png", "2.png"), f"is not named in {listing}")


def test_what_was_made_is_not_collected_again(folder, make_settings):
    settings = make_settings(dataset=str(folder), output=str(folder / "outputs"))
    (folder / ".hidden").mkdir()
    picture(70).save(folder / ".hidden" / "x.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    first, again = collect(settings), collect(settings)
    assert len(first) == len(again) == 10
    assert [(entry.source, entry.reason) for entry in first.unreadable] == [
        ("gone.png", "is a link to nothing")
    ]


def test_an_output_folder_that_is_the_data_set_is_not_collected_again(folder, make_settings):
    settings = make_settings(dataset=str(folder), output=str(folder))
    assert [len(collect(settings)) for _ in range(2)] == [10, 10]


@pytest.mark.parametrize("split", ["train", "a/b"])
def test_a_listing_in_a_subfolder_names_files_from_there_or_from_the_top(tmp_path, read, split):
    inside = tmp_path / "set" / split
    inside.mkdir(parents=True)
    for seed in range(2):
        picture(seed, 32).save(inside / f"{seed}.png")
    rows = [{"file_name": "0.png", "text": "a"}, {"file_name": f"{split}/1.png", "text": "b"}]
    (inside / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "set") == ({f"{split}/0.png": "a", f"{split}/1.png": "b"}, {}, [])


@pytest.mark.parametrize(
    ("written", "noted"),
    [
        ("./0.png", False),
        ("0.PNG", False),
        (".\\0.png", False),
        ("0", False),
        ("0.jpg", True),
        ("./data/lora_dataset_processed/train/0.png", True),
        ("/mnt/workspace/kolors/data/train/0.png", True),
        ("C:\\Users\\me\\data\\0.png", True),
        ("../elsewhere/0.png", True),
        ("{folder}/0.png", False),
        ("file://{folder}/0.png", False),
    ],
)
def test_a_path_is_understood_however_it_was_written(data, read, written, noted):
    row = {"file_name": written.format(folder=data), "text": "a girl"}
    (data / "metadata.jsonl").write_text(json.dumps(row))
    texts, _, notes = read()
    assert texts == {"0.png": "a girl"}
    assert [(note.source, note.example) for note in notes] == [("0.png", "a girl")] * noted


def test_names_with_accents_taken_apart_are_found(data, read):
    (data / "0.png").rename(data / "e\u0301te\u0301.png")  # as macOS has them
    (data / "metadata.csv").write_text("file_name,text\n\u00e9t\u00e9.png,a girl\n")
    assert list(read()[0].values()) == ["a girl"]


def test_paths_stay_inside_the_folder(data, read, tmp_path):
    picture(60).save(tmp_path / "secret.png")
    rows = [
        {"file_name": "../secret.png", "text": "out"},
        {"file_name": str(tmp_path / "secret.png"), "text": "out"},
        {"file_name": "1.png", "text": "in"},
    ]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts, reasons, _ = read()
    assert texts == {"1.png": "in"}
    assert reasons["../secret.png"] == "lies outside the folder"
    assert reasons[str(tmp_path / "secret.png")] == "lies outside the folder"


def test_ends_of_paths_are_no_guess_where_two_rows_mean_one_picture(data, read):
    rows = [{"file_name": f"{folder}/0.png", "text": folder} for folder in ("a", "b")]
    rows += [{"file_name": "/c/1.png", "text": "c"}, {"file_name": "1.png", "text": "here"}]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts, reasons, _ = read()
    assert texts == {"1.png": "here"}
    assert all("another row's picture" in reasons[name] for name in ("a/0.png", "b/0.png"))


def test_the_courses_own_folders(data, read, make_settings, tmp_path):
    """Data-Juicer's listing with absolute paths, and the table beside the processed pictures."""
    processed = tmp_path / "data" / "lora_dataset_processed" / "train"
    listing = tmp_path / "data" / "data-juicer" / "input"
    processed.mkdir(parents=True), listing.mkdir(parents=True)
    rows = []
    for seed in range(2):
        (data / f"{seed}.png").rename(processed / f"{seed}.png")
        rows.append({"text": "二次元", "image": [str(processed / f"{seed}.png")]})
    (listing / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        DatasetError, match="0.png: lies outside the folder; and 1 more: set dataset to the folder"
    ):
        read(listing)

    prefix = "data/lora_dataset_processed/train/"
    table = "".join(f"./{prefix}{seed}.png,二次元 {seed}\n" for seed in range(2))
    (processed / "metadata.csv").write_text(f"\ufefffile_name,text\n{table}", encoding="utf-8")
    (listing / "metadata.jsonl").unlink()
    for folder in (processed, processed.parent, tmp_path / "data" / "lora_dataset_processed"):
        assert list(read(folder)[0].values()) == ["二次元 0", "二次元 1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{half", "is not JSON"),
        ("[1]", "is not an object"),
        ("3", "is not an object"),
        ('{"text": "a"}', "names no picture"),
        ('{"images": ["0.png", "1.png"], "text": "a"}', "names 2 pictures"),
        ("[" * 100_000, "nested too deeply"),
        ('{"file_name": ' + "1" * 5000 + "}", "too many digits"),
        ('{"file_name": "0.png", "text": {"en": "a dog", "zh": "狗"}}', "an object with en, zh"),
        ('{"file_name": "0.png", "text": 3.5}', "no text but 3.5"),
        ('{"file_name": "0.png", "text": [["a"]]}', "a list of other things"),
        ('{"file_name": "0.png", "text": "' + "a" * 10_001 + '"}', "has 10,001 characters"),
        ('{"file_name": "a\\u0000b.png", "text": "a"}', "no such file"),
        ('{"file_name": "\\ud83d.png", "text": "a"}', "no such file"),
        ('{"file_name": "' + "x" * 9000 + '.png", "text": "a"}', "no such file"),
        ('{"file_name": "2.png", "text": "a"}', "is named again in metadata.jsonl line 2, first"),
    ],
)
def test_one_wrong_row_costs_only_itself_and_is_listed(data, read, line, reason):
    good = '{"file_name": "2.png", "text": "a girl"}'
    (data / "metadata.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    texts, reasons, _ = read()
    assert texts == {"2.png": "a girl"}
    assert any(reason in each for each in reasons.values())

    (data / "metadata.jsonl").write_text(line, encoding="utf-8")
    if "2.png" not in line:
        with pytest.raises(DatasetError, match="can be used: .*") as error:
            read()
        assert reason in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<__dj__image> a girl <|__dj__eoc|>", "a girl"),
        ("<__dj__image>\na boy<|__dj__eoc|>", "a boy"),
        ("a<__dj__video>b", "a b"),
        ("<__dj__image> <|__dj__eoc|>", ""),
        (["a cat", "a small cat"], "a cat"),
        (["a cat"], "a cat"),
        ({"en": "a dog"}, "a dog"),
        (None, ""),
        (float("nan"), ""),
        ("a cat \ud83d", "a cat"),
        ("a boy \U0001f600", "a boy \U0001f600"),
        ("a\0b", "a b"),
        ("a\u2028b", "a\u2028b"),
        ("caf\u00c3\u00a9", "café"),
        ("the girl\u0092s hat", "the girl’s hat"),
        ("=SUM(a)", "=SUM(a)"),
    ],
)
def test_captions_of_other_programs(data, read, value, text):
    row = {"images": ["0.png"], "text": value}
    (data / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    texts, _, notes = read()
    assert texts == {"0.png": text}
    tokens = isinstance(value, str) and "__dj__" in value
    changed = isinstance(value, str) and text != value and not tokens
    several = isinstance(value, list) and len(value) > 1
    assert [note.source for note in notes] == ["0.png"] * (changed or several)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.json", [{"file_name": "0.png", "text": "a girl"}]),
        ("dataset.json", {"rows": [{"image": "0.png", "caption": "a girl"}]}),
        ("meta_cap.json", {"0": {"caption": "a girl"}}),
        ("meta_lat.json", {"/root/img/0.png": {"caption": "a girl", "train_resolution": [8, 8]}}),
        ("captions.json", {"0.png": "a girl"}),
        ("captions.jsonl", {"path": "0.png", "Description": "a girl"}),
        ("metadata.tsv", "file_name\ttext\n0.png\ta girl\n"),
        ("captions.csv", "image, caption\n0.png, a girl\n"),
    ],
)
def test_a_listing_of_another_name_captions_what_has_none(data, read, name, content):
    (data / "1.txt").write_text("a boy")
    content = content if isinstance(content, str) else json.dumps(content)
    (data / name).write_text(content)
    texts, reasons, notes = read()
    assert texts == {"0.png": "a girl", "1.png": "a boy", "2.png": "", "3.png": ""}
    assert not reasons and notes[0].source == name and "as a listing" in notes[0].text


def test_json_that_is_no_listing_is_passed_over(data, read):
    for name, content in {"a.json": "[" * 100_000, "package.json": '{"name": "x"}'}.items():
        (data / name).write_text(content)
    assert read() == (dict.fromkeys(("0.png", "1.png", "2.png", "3.png"), ""), {}, [])


def test_a_listing_in_another_encoding_is_read_and_an_example_shown(data, read):
    rows = [{"file_name": f"{seed}.png", "text": f"紫色短发女孩 {seed}"} for seed in range(4)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (data / "metadata.jsonl").write_bytes("\n".join(lines).encode("gbk"))
    texts, _, notes = read()
    assert texts["3.png"] == "紫色短发女孩 3"
    assert [str(note) for note in notes] == [
        "metadata.jsonl: its text was read as GB18030, a guess: '紫色短发女孩 0'"
    ]

    (data / "metadata.jsonl").write_bytes("\n".join(lines).encode("utf-16"))
    assert read()[0]["3.png"] == "紫色短发女孩 3"
    mixed = [lines[0].encode(), lines[1].encode("gbk"), lines[2].encode()]
    (data / "metadata.jsonl").write_bytes(b"\n".join(mixed))
    assert list(read()[0].values()) == [f"紫色短发女孩 {seed}" for seed in range(3)]


@pytest.mark.parametrize("name", ["metadata.parquet", "Metadata.xlsx"])
def test_a_listing_of_a_kind_that_is_not_read_is_named(data, read, name):
    (data / name).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=f"{name}: is a table of a kind that is not read"):
        read()


def test_a_json_document_with_the_suffix_of_lines_is_read(data, read):
    rows = [{"file_name": f"{seed}.png", "text": f"{seed} girls"} for seed in range(4)]
    (data / "metadata.jsonl").write_text(json.dumps(rows, indent=1))
    assert read()[0] == {f"{seed}.png": f"{seed} girls" for seed in range(4)}
    (data / "metadata.jsonl").write_text(",\r\n".join(map(json.dumps, rows)) + ",")
    assert len(read()[0]) == 4
