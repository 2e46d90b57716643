"""Pictures that mappers make: what is trained is what they made, and they leave nothing behind."""

import tracemalloc

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter

from storyboard import clean, collect
from storyboard.data import juicer
from storyboard.data.captions import CaptionRow, Captions
from tests.conftest import picture


@pytest.fixture
def run(clean_by):
    """process -> (collected captions, the report of a recipe over them)."""
    return clean_by


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


BLUR = {"image_blur_mapper": {"p": 1.0, "blur_type": "gaussian", "radius": 4}}


def test_the_mapped_picture_is_the_one_that_is_kept(run, folder):
    picture(3).save(folder / "3.jpg", quality=90)
    (folder / "3.png").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    captions, report = run(BLUR)
    collected = files(captions.folder)

    for row, kept in zip(captions.rows, report.captions.rows, strict=True):
        with Image.open(captions.path(row)) as original:
            blurred = np.asarray(original.filter(ImageFilter.GaussianBlur(4)))
        assert (pixels(report.captions.path(kept)) == blurred).all()
        assert kept.id == row.id and kept.text == row.text
    assert report.captions.digest != captions.digest

    # nothing else is written
    assert files(captions.folder) == collected
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(files(report.captions.folder)) == {
        "images",
        *(row.image for row in report.captions.rows),
        *("manifest.json", ".manifest.json"),
        *("metadata.csv", "metadata.jsonl", "statistics.json"),
    }
    assert not list(captions.folder.parent.rglob("*__dj__*"))


def test_operators_behind_a_mapper_see_what_it_made(run):
    sharp = {"image_sharpness_filter": {"min_sharpness": 0.15}}
    _, before = run(sharp, BLUR)
    assert len(before.captions) == 10 and before.statistics["0000"]["image_sharpness"] > 0.15
    heavy = {"image_blur_mapper": {"p": 1.0, "radius": 8}}
    slight = {"image_sharpness_filter": {"min_sharpness": 0.0}}
    _, after = run(slight, heavy, slight, {"image_near_deduplicator": {}})
    assert after.statistics["0000"]["image_sharpness"] < 0.15


def test_two_mappers_and_captions_in_one_pass(run, folder):
    (folder / "2.txt").write_text("看  https://example.com/x 画", encoding="utf-8")
    _, report = run(
        {"text_length_filter": {"min_len": 3}},
        {"clean_links_mapper": {}},
        BLUR,
        {"whitespace_normalization_mapper": {}},
        {"image_blur_mapper": {"p": 1.0, "blur_type": "mean"}},
        {"text_length_filter": {"min_len": 1, "max_len": 5}},
    )
    assert report.captions.rows[2].text == "看   画" and len(report.captions) == 10
    assert report.statistics["0002"]["text_len"] == 5
    sharp = picture(0).filter(ImageFilter.GaussianBlur(4)).filter(ImageFilter.BLUR)
    assert (pixels(report.captions.path(report.captions.rows[0])) == np.asarray(sharp)).all()


def test_chance_is_the_same_in_each_run_and_process(run, monkeypatch):
    some = {"image_blur_mapper": {"p": 0.5, "radius": 6}}
    captions, first = run(some)
    monkeypatch.setattr(juicer, "ROWS_PER_PROCESS", 3)
    _, second = run(some, output=str(captions.folder.parent.parent / "again"))
    assert first.captions.digest == second.captions.digest
    left = [
        (pixels(captions.path(row)) == pixels(first.captions.path(row))).all()
        for row in captions.rows
    ]
    assert 0 < sum(left) < 10


def test_a_picture_that_no_mapper_changed_is_as_collected(run):
    captions, report = run({"image_face_blur_mapper": {}}, {"image_blur_mapper": {"p": 0.0}})
    assert [report.captions.path(row).read_bytes() for row in report.captions.rows] == [
        captions.path(row).read_bytes() for row in captions.rows
    ]


def test_a_long_thin_picture_is_measured_in_bounded_memory(tmp_path, make_settings):
    rows = []
    for name, size in (("0", (5000, 1)), ("1", (1, 5000)), ("2", (20000, 16))):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{name}.png")
        rows.append(CaptionRow(name, "a", f"{name}.png"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("process: [image_sharpness_filter: {min_sharpness: 0.01}]")
    tracemalloc.start()
    report = clean(Captions(tmp_path, rows), make_settings(recipe=str(recipe)))
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert len(report.captions) == 3


def test_a_picture_that_breaks_before_a_mapper_costs_only_itself(folder, make_settings, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"process": [BLUR]}))
    settings = make_settings(dataset=str(folder), recipe=str(recipe))
    captions = collect(settings)
    captions.path(captions.rows[6]).write_bytes(b"<html>")
    report = clean(captions, settings)
    assert [row.id for row in report.dropped] == ["0006"] and len(report.captions) == 9
    assert "image_blur_mapper failed at 1 pictures: the operator failed (PictureE" in str(report)
