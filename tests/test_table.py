"""Listings as tables: what spreadsheets and scripts write, whole and damaged."""

import csv

import pytest

from storyboard.data import table
from storyboard.data.text_files import Refusal

FILES = {f"{seed}.jpg" for seed in range(4)}


def rows_of(text: str) -> tuple[dict[str, str], list[str]]:
    """Captions by file, and why the other rows are refused."""
    rows = list(table.rows(text, FILES.__contains__))
    texts = {}
    for row in rows:
        values = {key: value for key, value in row.values.items() if key not in ("text", "caption")}
        file = next((value for value in values.values() if value in FILES), None)
        if file:
            texts[file] = row.values.get("text", row.values.get("caption", ""))
    return texts, [f"{row.line}: {row.refusal}" for row in rows if row.refusal]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,text\n0.jpg,a girl\n1.jpg,a boy\n",
        "file_name, text\n0.jpg, a girl\n1.jpg, a boy\n",
        "File Name,Text\r\n0.jpg,a girl\r\n1.jpg,a boy\r\n",
        "file_name;text\n0.jpg;a girl\n1.jpg;a boy\n",
        "file_name\ttext\n0.jpg\ta girl\n1.jpg\ta boy",
        "sep=;\nfile_name;text\n0.jpg;a girl\n1.jpg;a boy\n",
        "text,file_name\na girl,0.jpg\na boy,1.jpg\n",
        '"file_name","text"\n"0.jpg","a girl"\n"1.jpg","a boy"\n',
        "\n\nfile_name,text\n\n0.jpg,a girl\n\n1.jpg,a boy\n\n",
        "file_name,text\r0.jpg,a girl\r1.jpg,a boy\r",
        "0.jpg,a girl\n1.jpg,a boy\n",
        "file_name,text\n0.jpg,a girl,,\n1.jpg,a boy,\n",
        "id,image,caption\n7,0.jpg,a girl\n8,1.jpg,a boy\n",
    ],
)
def test_tables_as_people_write_them(text):
    assert rows_of(text) == ({"0.jpg": "a girl", "1.jpg": "a boy"}, [])


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ("0.jpg,a girl, smiling, red hat", "a girl, smiling, red hat"),
        (
            '0.jpg,"a girl, ""Mimi"", smiling\nin two lines"',
            'a girl, "Mimi", smiling\nin two lines',
        ),
        ('0.jpg, "a girl, smiling"', "a girl, smiling"),
        ('0.jpg,a screen of 5" and a girl', 'a screen of 5" and a girl'),
        ('0.jpg,a "big" girl', 'a "big" girl'),
        ("0.jpg,", ""),
        ("0.jpg", ""),
        ("0.jpg,'=1+1", "=1+1"),
        ("0.jpg,=1+1", "=1+1"),
        ("0.jpg,'quoted'", "'quoted'"),
    ],
)
def test_a_row_is_read_whole(row, caption):
    texts, refusals = rows_of(f"file_name,text\n{row}\n1.jpg,a boy\n")
    assert texts == {"0.jpg": caption, "1.jpg": "a boy"} and not refusals


def test_commas_outside_quotation_marks_are_noted():
    (row,) = table.rows("text,file_name\na girl, smiling,0.jpg\n", FILES.__contains__)
    assert row.values["text"] == "a girl, smiling" and row.note == table.UNQUOTED


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('0.jpg,"a girl', "line 2: cannot be read as a row"),
        ('0.jpg,"a girl"s hat"', "line 2: cannot be read as a row"),
        ('0.jpg,"' + "a" * 200_000 + '"', "field larger than field limit"),
    ],
)
def test_a_row_with_open_quotation_marks_swallows_no_other(row, reason):
    texts, refusals = rows_of(f"file_name,text\n{row}\n1.jpg,a boy\n2.jpg,a cat\n")
    assert texts == {"1.jpg": "a boy", "2.jpg": "a cat"}
    assert len(refusals) == 1 and reason in refusals[0]


def test_commas_that_could_belong_to_several_columns_are_refused():
    texts, refusals = rows_of("file_name,text,label\n0.jpg,a, b,c\n1.jpg,a boy,d\n")
    assert texts == {"1.jpg": "a boy"}
    assert refusals == [
        "line 2: has 4 cells where the header has 3: put its caption in quotation marks"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("name,label\nx,y\n", "no column of pictures in its header (name, label)"),
        ('"' * 1001, "no column of pictures"),
    ],
)
def test_a_table_without_pictures_is_refused(text, reason):
    with pytest.raises(Refusal) as refusal:
        rows_of(text)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "caption", ["=1+1", "+1", "-x", "@a", "'=1", "''=", "＝1", "a=b", "'a", ""]
)
def test_a_formula_is_escaped_and_read_back(caption):
    escaped = table.escaped(caption)
    assert not escaped or escaped[0] not in "=+-@＝"
    assert table.unescaped(escaped) == caption
    assert (escaped == caption) == (caption in ("a=b", "'a", ""))


def test_csvs_own_limit_is_as_it_was():
    limit = csv.field_size_limit()
    rows_of("file_name,text\n0.jpg," + "a" * 200_000)
    assert csv.field_size_limit() == limit
