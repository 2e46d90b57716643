"""The operators that read pictures by the repository's own networks."""

import json
import shutil

import pytest
from PIL import Image, ImageDraw, ImageFont

from storyboard.compat.data_juicer import data_juicer
from tests.conftest import ROOT, picture
from tools.captions import caption

RENDERS = ROOT / "benchmarks" / "renders"
STYLED = 12  # pictures of the style that most of a set has


def renders(style: str) -> list[dict]:
    """Attributes of held-out drawings of one style."""
    rows = json.loads((RENDERS / "meta.json").read_text(encoding="utf-8"))
    return [row for row in rows if row["style"] == style]


def put(folder, name: str, row: dict, text: str) -> None:
    shutil.copyfile(RENDERS / f"{row['id']}.webp", folder / f"{name}.webp")
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Twelve drawings of one style, with captions that say what they show, but for their style."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, row in enumerate(renders("toonHead")[:STYLED]):
        put(pictures, f"{number:02d}", row, caption(row | {"style": "lorelei"}, "zh"))
    return pictures


def dropped(report) -> dict[str, str]:
    return {row.id: row.reason for row in report.dropped}


def test_a_caption_of_another_picture_goes(folder, clean_by):
    first, *_, other = renders("toonHead")
    put(folder, "90", first, caption(other, "en"))
    _, report = clean_by({"image_caption_filter": {"min_match": 0.7}})
    assert list(dropped(report)) == ["0012"]
    assert "caption_attributes_missing" in dropped(report)["0012"]
    assert "min_match 0.7" in dropped(report)["0012"]
    assert report.statistics["0000"]["caption_attributes_seen"] >= 5


def test_captions_that_say_nothing_the_classifier_knows_are_not_judged(folder, clean_by):
    put(folder, "90", renders("toonHead")[0], "my favourite, 紫色短发")
    _, report = clean_by({"image_caption_filter": {}})
    assert not report.dropped and len(report.captions) == STYLED + 1
    assert f"image_caption_filter did not judge 1 of {STYLED + 1}: captions" in str(report)
    assert report.operators[0].note in report._repr_html_()


def test_another_style_than_most_goes_unless_its_caption_says_it(folder, clean_by):
    one, another, *_ = renders("personas")
    put(folder, "90", one, caption(one | {"style": "lorelei"}, "en"))
    put(folder, "91", another, caption(another, "en"))
    _, report = clean_by({"image_style_filter": {}})
    assert list(dropped(report)) == ["0012"]
    assert "image_style personas" in dropped(report)["0012"]
    assert report.operators[0].limits == {"image_style_probability": [0.8, None]}


@pytest.mark.parametrize("operator", ["image_caption_filter", "image_style_filter"])
def test_pictures_that_the_classifier_cannot_read_all_stay(tmp_path, clean_by, operator):
    pictures = tmp_path / "pictures"
    pictures.mkdir(exist_ok=True)
    for number in range(STYLED):
        picture(number).save(pictures / f"{number}.png")
        row = renders("toonHead")[number]
        (pictures / f"{number}.txt").write_text(caption(row, "zh"), encoding="utf-8")
    for path in pictures.glob("*.webp"):
        path.unlink()
        path.with_suffix(".txt").unlink()
    _, report = clean_by({operator: {}})
    assert not report.dropped and not report.operators[0].limits
    assert f"{operator} judged none: the classifier, which knows mini's drawings" in str(report)


@pytest.mark.parametrize("name", ["ImageCaptionFilter", "ImageStyleFilter"])
def test_a_set_of_a_hand_that_the_classifier_does_not_know_is_not_judged(name):
    """As Big Heads reads, 40 avatars by Robert Broersma: colours right, of the style unsure."""
    row = {"caption_attributes": 5, "caption_attributes_seen": 5, "caption_style": "lorelei"}
    row |= {"image_style": "personas"}
    unlike = row | {"caption_attributes_seen": 2, "image_style_probability": 0.6}

    def kept(sure, unsure):
        with data_juicer():
            from data_juicer.utils.constant import Fields

            from storyboard.data import model_operators

            operator = getattr(model_operators, name)()
        rows = [row | {"image_style_probability": 0.97}] * sure
        rows += [row | {"image_style_probability": 0.6}] * unsure + [unlike] * 8
        operator.look_at_set(rows)
        return sum(operator.process_single({Fields.stats: each}) for each in rows), operator.note

    count, note = kept(4, 28)
    assert count == 40 and note.endswith("is sure of the style of 4 of 32 pictures")
    count, note = kept(31, 1)
    assert count == (32 if name == "ImageCaptionFilter" else 31) and not note


def test_a_set_of_two_styles_has_none_of_its_own(folder, clean_by):
    for number, row in enumerate(renders("personas")[:STYLED], 50):
        put(folder, f"{number}", row, caption(row | {"style": "lorelei"}, "zh"))
    _, report = clean_by({"image_style_filter": {}})
    assert not report.dropped and "are in one style" in str(report)


@pytest.mark.parametrize("chinese", [False, True])
def test_text_in_a_picture_is_found_and_a_drawing_is_not_text(folder, clean_by, chinese):
    with Image.open(folder / "03.webp") as image:
        lettered = image.convert("RGB")
    font, words = ImageFont.load_default(20), "Sample picture"
    if chinese:
        fonts = pytest.importorskip("manimgx_fonts_cjk")
        (path,) = fonts.__path__
        font = ImageFont.truetype(f"{path}/NotoSansCJK-VF.otf.ttc", 20)
        words = "样图，请勿转载"
    ImageDraw.Draw(lettered).text(
        (40, 200), words, "white", font, stroke_width=1, stroke_fill="black"
    )
    lettered.save(folder / "03.png")
    (folder / "03.webp").unlink()
    _, report = clean_by({"image_text_line_filter": {"max_text_line": 0.55}})
    assert list(dropped(report)) == ["0003"]
    assert report.statistics["0003"]["image_text_line"] > 0.55


def test_where_much_of_a_set_looks_like_text_only_sure_text_goes():
    lines = [{"image_text_line": line} for line in (0.1, 0.2, 0.3, 0.4, 0.6, 0.9)]

    def kept(statistics):
        with data_juicer():
            from data_juicer.utils.constant import Fields

            from storyboard.data.model_operators import ImageTextLineFilter

            operator = ImageTextLineFilter()
        operator.look_at_set(statistics)
        rows = [{Fields.stats: row} for row in statistics]
        judged = [operator.process_single(row) for row in rows]
        return judged, operator.limits()["image_text_line"], operator.note

    assert kept(lines[:4] * 2 + lines[5:]) == ([True] * 8 + [False], [None, 0.55], "")
    judged, limits, note = kept(lines)
    assert judged == [True] * 5 + [False] and limits == [None, 0.85]
    assert note.startswith("finds text in 2 of 6 pictures, which may be fine lines of the drawing")
