import pytest

from storyboard import clean, collect
from storyboard.data import edits, edits_file
from storyboard.data.captions import Captions
from storyboard.errors import DatasetError

RECIPE = "process:\n  - image_shape_filter:\n      min_width: 8\n"


@pytest.fixture
def settings(folder, make_settings, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return make_settings(dataset=str(folder), recipe=str(recipe))


def write(settings, text: str, encoding: str = "utf-8") -> None:
    settings.folder.mkdir(exist_ok=True)
    (settings.folder / edits_file.FILE).write_text(text, encoding=encoding)


def test_what_is_taken_out_and_described_anew_reaches_clean_and_the_account(settings, capsys):
    before = collect(settings)
    write(settings, 'file_name,keep,text\n2.png,no,\n3.png,yes,"一只猫，微笑"\n')
    captions = collect(settings)

    texts = {row.source: row.text for row in captions.rows}
    assert texts.keys() == {f"{n}.png" for n in range(10)} - {"2.png"}
    assert texts["3.png"] == "一只猫，微笑" and texts["4.png"] == "画 4"
    assert "1 pictures taken out, 1 captions changed" in capsys.readouterr().out
    assert captions.digest != before.digest
    assert Captions.load(captions.folder) == captions

    report = clean(captions, settings)
    assert [(each.source, each.reason) for each in report.unreadable] == [
        ("2.png", edits.TAKEN_OUT)
    ]
    assert report.total == 10 and len(report.captions) == 9
    assert "left out before 1" in str(report)


def test_clean_goes_by_what_was_decided_since_collect(settings):
    captions = collect(settings)
    write(settings, "file_name,keep,text\n2.png,no,\n")
    assert {row.source for row in clean(captions, settings).captions.rows} == {
        f"{n}.png" for n in range(10) if n != 2
    }
    edited = collect(settings)
    write(settings, "file_name,keep,text\n3.png,yes,猫\n")
    texts = {row.source: row.text for row in clean(edited, settings).captions.rows}
    assert len(texts) == 10 and texts["3.png"] == "猫"
    (settings.folder / edits_file.FILE).unlink()
    assert clean(edited, settings).captions.rows == captions.rows


def test_captions_of_another_program_are_cleaned_as_they_are(settings, tmp_path):
    captions = collect(settings.but(output=str(tmp_path / "other")))
    write(settings, "file_name,keep,text\n2.png,no,\n")
    assert len(clean(captions, settings).captions) == 10


def test_edits_do_not_collect_again_and_go_when_the_file_goes(settings):
    before = collect(settings)
    written = (before.folder / "metadata.jsonl").stat().st_mtime_ns
    write(settings, "file_name,keep,text\n2.png,no,\n")
    once = collect(settings)
    made = (once.folder / "metadata.jsonl").stat().st_mtime_ns
    assert collect(settings) == once
    assert (once.folder / "metadata.jsonl").stat().st_mtime_ns == made
    assert (before.folder / "metadata.jsonl").stat().st_mtime_ns == written
    (settings.folder / edits_file.FILE).unlink()
    assert collect(settings) == before


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file_name;keep;text\r\n2.png;NO;\r\n", "utf-8-sig"),  # Excel, where commas are decimal
        ("文件名,keep,描述\n2.png,否,\n", "gb18030"),
        ("\n2.png\tno\t\n".join(["file_name\tkeep\ttext", ""]), "utf-16"),
        ("keep,file_name\nfalse,2.png\n", "utf-8"),
    ],
)
def test_what_spreadsheets_save_is_read(settings, text, encoding):
    write(settings, text, encoding)
    captions = collect(settings)
    assert {row.source for row in captions.rows} == {f"{n}.png" for n in range(10)} - {"2.png"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,keep,text\n2.png,maybe,\n", "line 2: keep is 'maybe', write yes or no"),
        ("2.png,no\n", "has no column keep: its first line must be file_name,keep,text"),
        ("file_name,text\n2.png,no\n", "has no column keep"),
        ("file_name,keep,text\n2.png,no,\n2.png,yes,\n", r"line 3 names '2.png' again"),
        ("file_name,keep,text\n2.png,yes,a, b, c\n", "put its caption in quotation marks"),
        ("file_name,keep,text\n,no,\n", "row of line 2 names no picture"),
        (f"file_name,keep,text\n2.png,yes,{'a' * 10_001}\n", "shorten it"),
        ("", "is empty"),
        ("file_name,keep\n" + "".join(f"{n}.png,no\n" for n in range(10)), "takes out every"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_sentence(settings, text, said):
    write(settings, text)
    with pytest.raises(DatasetError, match=said) as error:
        collect(settings)
    assert "\n" not in str(error.value) and edits_file.FILE in str(error.value)


def test_a_row_of_another_data_set_is_named_and_not_used(settings, capsys):
    write(settings, "file_name,keep,text\nother/7.png,no,\nmore.png,no,\n")
    assert len(collect(settings)) == 10
    assert "no picture 'other/7.png' (and 1 more)" in capsys.readouterr().out


def test_pictures_that_have_other_names_now_are_called_so(settings, folder):
    write(settings, "file_name,keep,text\n0.png,no,\n")
    report = clean(collect(settings), settings)
    for suffix in ("png", "txt"):
        if (folder / f"9.{suffix}").exists():
            (folder / f"9.{suffix}").rename(folder / f"99.{suffix}")
    again = collect(settings)
    assert {row.source for row in again.rows} >= {"99.png"}
    assert report.captions.rows[-1].source == "9.png"
    assert {row.source for row in clean(again, settings).captions.rows} >= {"99.png"}


def test_edits_that_lie_beside_the_pictures_are_no_listing_of_them(settings, folder):
    settings = settings.but(output=str(folder))
    (folder / "2.txt").unlink()
    write(settings, "file_name,keep,text\n2.png,yes,猫\n3.png,no,\n")
    collect(settings)
    collected = Captions.load(folder / edits.COLLECTED)
    assert {row.source: row.text for row in collected.rows}["2.png"] != "猫"
    assert {row.source: row.text for row in collect(settings).rows}["2.png"] == "猫"
