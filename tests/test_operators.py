"""The operators that this package adds to Data-Juicer."""

import random

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, ImageFilter

from storyboard import clean, collect
from tests.conftest import picture


@pytest.fixture
def cleaned(folder, make_settings, tmp_path):
    """operator, parameters -> the report of a recipe with that operator alone over ``folder``."""

    def run(operator: str, **parameters):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"process": [{operator: parameters}]}), encoding="utf-8")
        settings = make_settings(dataset=str(folder), recipe=str(path))
        return clean(collect(settings), settings)

    return run


def test_near_duplicates_go_and_their_first_stays(folder, cleaned):
    picture(2).resize((300, 300)).save(folder / "7.jpg", quality=70)
    (folder / "7.png").unlink()
    report = cleaned("image_near_deduplicator")
    assert [(row.id, row.reason) for row in report.dropped] == [("0007", "repeats 0002")]


def test_a_small_change_of_colour_in_one_place_is_no_duplicate(folder, cleaned):
    changed = picture(2)
    ImageDraw.Draw(changed).ellipse((124, 125, 132, 131), "white")  # as large as a small mouth
    changed.save(folder / "7.png")
    assert len(cleaned("image_near_deduplicator").captions) == 10


def test_thin_lines_on_white_are_not_taken_for_each_other(folder, cleaned):
    for seed in range(10):
        sketch = Image.new("RGB", (1024, 1024), "white")
        points = [
            (
                random.Random(seed * 9 + i).randrange(1024),
                random.Random(seed * 7 + i + 1).randrange(1024),
            )
            for i in range(8)
        ]
        ImageDraw.Draw(sketch).line(points, "black", 1)
        sketch.save(folder / f"{seed}.png")
    assert len(cleaned("image_near_deduplicator").captions) == 10


def test_blurred_pictures_go(folder, cleaned):
    picture(4).filter(ImageFilter.GaussianBlur(8)).save(folder / "4.png")
    report = cleaned("image_sharpness_filter", min_sharpness=0.15)
    assert [row.id for row in report.dropped] == ["0004"]
    sharpness = {row_id: values["image_sharpness"] for row_id, values in report.statistics.items()}
    assert sharpness["0004"] < 0.15 < sharpness["0001"]


def test_what_was_blown_up_from_a_thumbnail_goes(folder, cleaned):
    small = picture(4).resize((72, 72), Image.Resampling.LANCZOS)
    small.resize((320, 320), Image.Resampling.BICUBIC).save(folder / "4.png")
    small.resize((320, 320), Image.Resampling.NEAREST).save(folder / "5.png")  # as pixel art is
    report = cleaned("image_detail_filter", min_detail=0.28)
    assert [row.id for row in report.dropped] == ["0004"]
    assert "image_detail " in report.dropped[0].reason


def test_what_moved_while_it_was_taken_goes(folder, cleaned):
    moved = np.mean([np.roll(np.asarray(picture(4), np.float32), n, 1) for n in range(14)], 0)
    Image.fromarray(moved.astype(np.uint8)).save(folder / "4.png")
    report = cleaned("image_detail_filter", min_detail=0, min_detail_across=0.13)
    assert [row.id for row in report.dropped] == ["0004"]


def test_what_is_mostly_empty_goes(folder, cleaned):
    Image.new("RGB", (256, 256), "white").save(folder / "3.png")
    Image.linear_gradient("L").convert("RGB").save(folder / "4.png")
    page = Image.new("RGB", (512, 512), "white")
    page.paste(picture(5, 80), (300, 120))
    page.save(folder / "5.png")
    report = cleaned("image_content_filter", min_content=0.1)
    assert [row.id for row in report.dropped] == ["0003", "0004", "0005"]
    content = {row_id: values["image_content"] for row_id, values in report.statistics.items()}
    assert content["0003"] == content["0004"] == 0 < content["0005"] < 0.1 < content["0001"]


@pytest.mark.parametrize("size", [(1, 1), (18, 900), (9000, 180)])
def test_pictures_of_any_shape_are_measured(folder, cleaned, size):
    Image.new("RGB", size, "red").save(folder / "3.png")
    for operator in ("image_detail_filter", "image_content_filter", "image_text_line_filter"):
        report = cleaned(operator)
        assert "0003" in report.statistics and not [row for row in report.dropped if row.failed]
