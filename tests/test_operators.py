"""The operators that this package adds to Data-Juicer."""

import random

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
