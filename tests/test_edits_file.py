"""``edits.csv``: what is written is read, and what others wrote there stays."""

import csv

import pytest

from storyboard.data import edits_file
from storyboard.data.edits_file import Edit, EditsFile


def written(folder, text: str):
    path = folder / edits_file.FILE
    path.write_text(text, encoding="utf-8", newline="")
    return path


def cells(folder) -> list[list[str]]:
    with (folder / edits_file.FILE).open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.reader(lines))


def test_what_is_written_is_read_and_no_spreadsheet_takes_it_for_a_formula(tmp_path):
    made = {
        "a.png": Edit(keep=False),
        'b "c", d.png': Edit(text='=1+1, "猫"'),
        "e.png": Edit(),
        "=1+1.png": Edit(keep=False),
        "'=1+1.png": Edit(text="b"),
        " f.png": Edit(keep=False),
        "f.png": Edit(text="c"),
        "g.png": Edit(text="\n".join(["line"] * 120)),
        "h.png": Edit(text="as\ra.png,no,\n1.png,no,\r\n"),
    }
    said = {name: edit for name, edit in made.items() if edit}
    said["h.png"] = Edit(text=said["h.png"].text.strip())
    assert EditsFile(tmp_path, made).change(made).keys() == said.keys()
    assert cells(tmp_path)[1:5] == [
        ["a.png", "no", ""],
        ['b "c", d.png', "yes", '\'=1+1, "猫"'],
        ["'=1+1.png", "no", ""],
        ["''=1+1.png", "yes", "b"],
    ]
    assert EditsFile(tmp_path, made).edits == said


def test_rows_and_columns_of_others_stay_as_they_are(tmp_path):
    written(
        tmp_path, "文件名;保留;by;描述\n2.png;否;me;\n'=x.png;no;;y\n3.png;;you;猫\n4.png;no;;\n"
    )
    file = EditsFile(tmp_path, ["2.png", "3.png", "4.png", "5.png"])
    assert file.unknown == ["'=x.png"]
    file.change({"3.png": Edit(), "4.png": Edit(), "5.png": Edit(text="=狗")})
    text = (tmp_path / edits_file.FILE).read_text(encoding="utf-8-sig")
    assert text.splitlines() == [
        "文件名;保留;by;描述",
        "2.png;否;me;",
        "'=x.png;no;;y",
        "3.png;;you;",
        "5.png;yes;;'=狗",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,keep,text\n,,\n2.png,0.0,\n , ,\n,,,,\n",
        "file_name,保留\n2.png,0\n",
        "sep=;\n\nFile Name;Keep;Text;\n2.png;NO;;\n",
        'file_name,keep,text\n2.png, no, "a, b"\n',
        'file_name,keep,text\n3.png,yes,a "b\n2.png,no,\n',
        "\n2.png , no,\n".join(["file_name,keep,text", ""]),
    ],
)
def test_what_people_write_is_read(tmp_path, text):
    written(tmp_path, text)
    assert not EditsFile(tmp_path, ["2.png", "3.png"]).edits["2.png"].keep


def test_a_caption_of_a_table_that_is_mended_keeps_its_apostrophe(tmp_path):
    written(tmp_path, 'file_name,keep,text\n2.png,yes, "\'=a"\n')
    assert EditsFile(tmp_path, ["2.png", "3.png"]).edits == {"2.png": Edit(text="=a")}
    EditsFile(tmp_path, ["2.png", "3.png"]).change({"3.png": Edit(keep=False)})
    assert cells(tmp_path)[1] == ["2.png", "yes", "'=a"]


def test_what_was_guessed_of_its_encoding_is_said(tmp_path, capsys):
    text = "file_name,keep,text\n2.png,yes,一个紫色短发女孩在教室里微笑\n"
    (tmp_path / edits_file.FILE).write_bytes(text.encode("gb18030"))
    edits_file.read(tmp_path, ["2.png"])
    assert "GB18030, a guess" in capsys.readouterr().out
