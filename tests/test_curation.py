"""A set looked through by hand: the calls, and the widgets as a browser would set them."""

import pytest

from storyboard import collect, curate
from storyboard.data import edits_file
from storyboard.data.edits_file import Edit
from storyboard.errors import DatasetError, ResourceError, SettingsError
from storyboard.widgets import display
from storyboard.widgets.gallery import PAGE, Gallery


@pytest.fixture
def settings(folder, make_settings):
    return make_settings(dataset=str(folder))


@pytest.fixture
def curation(settings):
    return curate(collect(settings), settings)


def texts(settings) -> dict:
    return {row.source: row.text for row in collect(settings).rows}


def test_what_is_taken_out_and_described_is_collected_so(curation, settings):
    curation.keep("3.png", False)
    curation.describe("4.png", "  一只猫  ")
    assert texts(settings) == {
        f"{n}.png": "一只猫" if n == 4 else f"画 {n}" for n in range(10) if n != 3
    }
    again = curate(collect(settings), settings)
    assert "3.png" in again.names and not again.is_kept("3.png")
    again.keep("3.png", True)
    again.describe("4.png", "")
    assert texts(settings) == {f"{n}.png": f"画 {n}" for n in range(10)}


def test_many_captions_are_changed_at_once_but_those_taken_out(curation, settings):
    curation.keep("0.png", False)
    curation.put_first("二次元")
    curation.put_first("二次元")
    curation.put_last("白底", ["5.png"])
    curation.replace("画 ", "图", ["6.png"])
    curation.replace("二次元", "", ["7.png"])
    changed = texts(settings)
    assert changed["1.png"] == "二次元，画 1" and changed["5.png"] == "二次元，画 5，白底"
    assert changed["6.png"] == "二次元，图6" and changed["7.png"] == "画 7"
    assert curation.text("0.png") == "画 0"


def test_changes_are_taken_back_one_by_one(curation, settings):
    curation.put_first("二次元")
    curation.keep("3.png", False)
    curation.keep("3.png", False)
    curation.undo()
    assert len(texts(settings)) == 10 and texts(settings)["3.png"] == "二次元，画 3"
    curation.undo()
    curation.undo()
    assert texts(settings)["3.png"] == "画 3"


@pytest.mark.parametrize(
    ("own", "change", "text"),
    [
        ("caterpillar", ("put_first", "cat"), "cat, caterpillar"),
        ("cat, dog", ("put_first", "cat"), "cat, dog"),
        ("cat", ("put_first", "cat"), "cat"),
        ("二次元女孩", ("put_first", "二次元"), "二次元女孩"),
        ("二次元，女孩", ("put_first", "二次元，"), "二次元，女孩"),
        ("wildcat", ("put_last", "cat,"), "wildcat, cat"),
        ("a cat", ("put_last", "cat"), "a cat"),
        ("1,000 flowers, blurry", ("replace", "blurry", ""), "1,000 flowers"),
        ("1,000 flowers", ("replace", "flowers", "trees"), "1,000 trees"),
        ("a cat,", ("replace", "blurry", ""), "a cat,"),
        ("blurry, a, blurry, blurry, b", ("replace", "blurry", ""), "a, b"),
        ("猫，模糊，狗", ("replace", "模糊", ""), "猫，狗"),
        ("a very blurry cat blurry, b", ("replace", "blurry", ""), "a very cat, b"),
    ],
)
def test_words_are_put_once_and_what_is_taken_out_leaves_no_gap(curation, own, change, text):
    curation.describe("1.png", own)
    for _ in range(2):
        getattr(curation, change[0])(*change[1:], ["1.png"])
    assert curation.text("1.png") == text


def test_what_was_written_meanwhile_stays(curation, settings):
    path = settings.folder / edits_file.FILE
    curation.keep("1.png", False)
    again = curate(collect(settings), settings)
    path.write_text("file_name,keep,text\n1.png,no,x\n2.png,no,\nother.png,no,\n", encoding="utf-8")
    curation.keep("1.png", True)
    curation.keep("3.png", False)
    assert not curation.is_kept("2.png")
    again.describe("4.png", "猫")
    curation.undo()
    assert path.read_text(encoding="utf-8-sig").splitlines() == [
        "file_name,keep,text",
        "1.png,yes,x",
        "2.png,no,",
        "other.png,no,",
        "4.png,yes,猫",
    ]
    path.unlink()
    again.keep("5.png", False)
    assert len(path.read_text(encoding="utf-8-sig").splitlines()) == 2


def test_a_change_that_cannot_be_written_is_not_made_and_can_still_be_taken_back(
    curation, monkeypatch
):
    curation.keep("1.png", False)

    def refuse(*_):
        raise ResourceError("The disk became full.")

    with monkeypatch.context() as patched:
        patched.setattr("storyboard.artifacts.write_atomically", refuse)
        for change in (lambda: curation.keep("2.png", False), curation.undo):
            with pytest.raises(ResourceError):
                change()
    assert curation.is_kept("2.png") and not curation.is_kept("1.png")
    curation.undo()
    assert curation.is_kept("1.png")


def test_only_what_clean_kept_is_shown_and_what_was_taken_out(clean_by):
    captions, report = clean_by({"text_length_filter": {"min_len": 3}})
    settings_folder = captions.folder.parent
    edits_file.EditsFile(settings_folder, ["2.png"]).change({"2.png": Edit(keep=False)})
    some = report.captions
    some.rows[:] = some.rows[4:6]

    class Where:
        folder = settings_folder

    assert curate(some, Where).names == ["2.png", "4.png", "5.png"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda curation: curation.keep("x.png", False), "There is no picture 'x.png'"),
        (lambda curation: curation.describe("1.png", "a" * 10_001), "caption of 1.png has 10,001"),
        (lambda curation: curation.replace("画 1", ""), "left of the caption of 1.png: take"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(curation, settings, change, said):
    with pytest.raises(DatasetError, match=said):
        change(curation)
    assert not (settings.folder / edits_file.FILE).exists()


def test_widgets_write_what_is_ticked_and_typed(curation, settings):
    gallery = Gallery(curation, "zh")
    _, tick, text = gallery.cards.children[3].children
    tick.value = False
    text.value = "别的"
    gallery.filter.value = "画 5"
    assert len(gallery.cards.children) == 1
    gallery.words.value, gallery.action.value = "二次元", "first"
    gallery.apply.click()
    assert texts(settings)["5.png"] == "二次元，画 5" and "3.png" not in texts(settings)
    assert curation.text("3.png") == "别的" and curation.text("1.png") == "画 1"
    assert "去掉 1 张，改了 1 条描述" in gallery.state.value
    assert gallery.cards.children[0].children[2].value == "二次元，画 5"
    gallery.undo.click()
    assert texts(settings)["5.png"] == "画 5"


def test_what_a_widget_refuses_is_said_in_one_line(curation):
    gallery = Gallery(curation, "zh")
    gallery.cards.children[0].children[2].value = "长" * 10_001
    assert "shorten it" in gallery.state.value and display.ERROR in gallery.state.value


def test_a_tick_that_cannot_be_written_is_taken_back_and_the_line_says_why(curation, monkeypatch):
    def refuse(*_):
        raise ResourceError("The disk became full.")

    monkeypatch.setattr("storyboard.artifacts.write_atomically", refuse)
    gallery = Gallery(curation, "zh")
    shown, tick, _ = gallery.cards.children[3].children
    tick.value = False
    assert tick.value and shown.layout.opacity == "1"
    assert "The disk became full." in gallery.state.value


def test_an_emptied_box_shows_the_collected_caption_and_a_refusal_goes_when_it_is_mended(curation):
    gallery = Gallery(curation, "zh")
    text = gallery.cards.children[3].children[2]
    text.value = "别的"
    text.value = " "
    assert text.value == "画 3" == curation.text("3.png")
    text.value = "长" * 10_001
    assert "shorten it" in gallery.state.value
    text.value = "画 3"
    assert "共 10 张" in gallery.state.value


def test_what_is_taken_out_is_not_counted_among_those_that_change(curation):
    gallery = Gallery(curation, "zh")
    gallery.cards.children[3].children[1].value = False
    assert gallery.apply.description == "应用到 9 张"


def test_a_picture_that_is_gone_is_a_line_and_the_others_are_shown(curation):
    curation.collected.path(curation.row("3.png")).unlink()
    gallery = Gallery(curation, "zh")
    shown = [card.children[0].value for card in gallery.cards.children]
    assert [display.ERROR in each for each in shown] == [number == 3 for number in range(10)]


def test_a_large_set_is_shown_page_by_page(folder, settings):
    for n in range(10, 30):
        (folder / f"{n}.png").write_bytes((folder / "1.png").read_bytes())
    gallery = Gallery(curate(collect(settings), settings), "zh")
    assert len(gallery.cards.children) == PAGE and gallery.page.value == "第 1 页，共 2 页"
    gallery.forward.click()
    assert len(gallery.cards.children) == 30 - PAGE and gallery.forward.disabled
    gallery.back.click()
    assert len(gallery.cards.children) == PAGE and gallery.back.disabled


def test_without_a_notebook_its_text_says_which_file_it_is(curation, settings):
    shown = curation._repr_mimebundle_()
    assert shown.keys() == {"text/plain"} and edits_file.HEADER in shown["text/plain"]
    assert str(settings.folder / edits_file.FILE) in shown["text/plain"]


def test_in_a_notebook_it_is_widgets(curation, monkeypatch):
    monkeypatch.setattr("storyboard.show.in_notebook", lambda: True)
    assert "application/vnd.jupyter.widget-view+json" in curation._repr_mimebundle_()
    monkeypatch.setattr(display, "find_spec", lambda name: None)  # ipywidgets is not installed
    assert curation._repr_mimebundle_().keys() == {"text/plain"}


@pytest.mark.parametrize(("asked", "shown"), [(None, "zh"), ("en", "en"), ("zh", "zh")])
def test_labels_are_in_the_language_of_the_captions_or_as_asked(settings, asked, shown):
    assert curate(collect(settings), settings, asked).language == shown


def test_another_language_is_refused(settings):
    with pytest.raises(SettingsError, match='must be "zh", "en" or None'):
        curate(collect(settings), settings, "fr")
