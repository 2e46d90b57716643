import csv
import random
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image, ImageDraw, ImageFile, ImageFilter

from storyboard import clean, collect
from storyboard.data.cleaning import read_recipe
from storyboard.errors import DatasetError, SettingsError
from tests.conftest import picture


@pytest.fixture
def recipe(tmp_path):
    def write(process) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(
            process if isinstance(process, str) else yaml.safe_dump({"process": process}),
            encoding="utf-8",
        )
        return str(path)

    return write


def run(folder, make_settings, recipe, process):
    settings = make_settings(dataset=str(folder), recipe=recipe(process))
    return clean(collect(settings), settings)


def test_counts_reasons_and_statistics(folder, make_settings, recipe):
    picture(20, 80).save(folder / "3.png")
    (folder / "5.txt").write_text("")
    report = run(
        folder,
        make_settings,
        recipe,
        [
            {"text_length_filter": {"min_len": 1}},
            {"image_shape_filter": {"min_width": 200, "min_height": 200}},
        ],
    )
    assert [(op["operator"], op["kept"], op["dropped"]) for op in report.operators] == [
        ("text_length_filter", 9, 1),
        ("image_shape_filter", 8, 1),
    ]
    assert {row["id"]: row["operator"] for row in report.dropped} == {
        "0005": "text_length_filter",
        "0003": "image_shape_filter",
    }
    assert (
        "image_width 80" in report.dropped[1]["reason"]
        and "min_width 200" in report.dropped[1]["reason"]
    )
    assert report.statistics["0000"]["image_width"] == 256


def test_metadata_csv_is_what_diffsynth_reads(folder, make_settings, recipe):
    report = run(folder, make_settings, recipe, [{"text_length_filter": {"min_len": 1}}])
    with open(report.captions.folder / "metadata.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["image", "prompt"] and [row["prompt"] for row in rows] == [
        f"画 {seed}" for seed in range(10)
    ]
    assert all((report.captions.folder / row["image"]).is_file() for row in rows)


def test_near_duplicates_go_and_their_first_stays(folder, make_settings, recipe):
    picture(2).resize((300, 300)).save(folder / "7.jpg", quality=70)
    (folder / "7.png").unlink()
    report = run(folder, make_settings, recipe, [{"image_near_deduplicator": {}}])
    assert [(row["id"], row["reason"]) for row in report.dropped] == [("0007", "repeats 0002")]


def test_thin_lines_on_white_are_not_taken_for_each_other(folder, make_settings, recipe):
    for seed in range(10):
        sketch = Image.new("RGB", (1024, 1024), "white")
        pen = ImageDraw.Draw(sketch)
        pen.line(
            [
                (
                    random.Random(seed * 9 + i).randrange(1024),
                    random.Random(seed * 7 + i + 1).randrange(1024),
                )
                for i in range(8)
            ],
            "black",
            1,
        )
        sketch.save(folder / f"{seed}.png")
    assert len(run(folder, make_settings, recipe, [{"image_near_deduplicator": {}}]).captions) == 10


def test_a_mapper_rewrites_the_captions(folder, make_settings, recipe):
    (folder / "2.txt").write_text("看 https://example.com/x 画", encoding="utf-8")
    report = run(folder, make_settings, recipe, [{"clean_links_mapper": {}}])
    assert (
        "http" not in report.captions.rows[2]["text"] and report.captions.rows[1]["text"] == "画 1"
    )


def test_blurred_pictures_go(folder, make_settings, recipe):
    picture(4).filter(ImageFilter.GaussianBlur(8)).save(folder / "4.png")
    report = run(
        folder, make_settings, recipe, [{"image_sharpness_filter": {"min_sharpness": 0.15}}]
    )
    assert [row["id"] for row in report.dropped] == ["0004"] and report.statistics["0004"][
        "image_sharpness"
    ] < 0.15 < report.statistics["0001"]["image_sharpness"]


def test_a_picture_that_breaks_after_collection_costs_only_itself(folder, make_settings, recipe):
    settings = make_settings(
        dataset=str(folder),
        recipe=recipe(
            [
                {"image_shape_filter": {"min_width": 10}},
                {"image_sharpness_filter": {"min_sharpness": 0.01}},
            ]
        ),
    )
    captions = collect(settings)
    captions.path(captions.rows[6]).write_bytes(b"<html>")
    report = clean(captions, settings)
    assert len(report.captions) == 9 and [row["id"] for row in report.dropped] == ["0006"]


def test_a_second_run_does_nothing_and_a_changed_recipe_does(folder, make_settings, recipe, capsys):
    settings = make_settings(
        dataset=str(folder), recipe=recipe([{"text_length_filter": {"min_len": 1}}])
    )
    captions = collect(settings)
    first = clean(captions, settings)
    written = (first.captions.folder / "metadata.jsonl").stat().st_mtime_ns
    again = clean(captions, settings)
    assert again == first and "clean: nothing to do" in capsys.readouterr().out
    assert (first.captions.folder / "metadata.jsonl").stat().st_mtime_ns == written
    recipe([{"text_length_filter": {"min_len": 1}}, {"image_shape_filter": {"min_width": 2}}])
    assert [op["operator"] for op in clean(captions, settings).operators] == [
        "text_length_filter",
        "image_shape_filter",
    ]


def test_a_recipe_that_drops_everything_is_an_error_and_loses_nothing(
    folder, make_settings, recipe
):
    good = make_settings(
        dataset=str(folder), recipe=recipe([{"text_length_filter": {"min_len": 1}}])
    )
    captions = collect(good)
    kept = clean(captions, good).captions.folder
    recipe([{"image_shape_filter": {"min_width": 5000}}])
    with pytest.raises(
        DatasetError, match="drops all 10 pictures, 10 of them by image_shape_filter"
    ) as error:
        clean(captions, good)
    assert "\n" not in str(error.value) and (kept / "metadata.jsonl").is_file()


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ([{"image_shap_filter": {}}], "'image_shap_filter'.*did you mean 'image_shape_filter'"),
        ("process: [", "is not YAML"),
        ("other: 1", "needs a list called process"),
        ("process: [a]", "needs a list called process"),
        (
            [{"image_shape_filter": {"any_or_all": "some"}}],
            "gives image_shape_filter parameters that it does not take",
        ),
        (
            [{"image_shape_filter": {"min_widht": 5}}],
            "the parameter 'min_widht', which it does not take: it takes any_or_all, max_height",
        ),
        ([{"random_selector": {"select_ratio": 0.5}}], "neither filters, deduplicates nor maps"),
        ("process: 5", "needs a list called process"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(folder, make_settings, recipe, process, said):
    with pytest.raises(SettingsError, match=said) as error:
        run(folder, make_settings, recipe, process)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(SettingsError, match="'mine'.*course, sample"):
        read_recipe("mine")


def test_the_course_recipe_has_the_courses_values():
    process = {name: values for op in read_recipe("course")[1] for name, values in op.items()}
    assert process["image_shape_filter"] == {
        "min_width": 1024,
        "min_height": 1024,
        "any_or_all": "any",
    }
    assert (
        process["image_aspect_ratio_filter"]["min_ratio"],
        process["image_aspect_ratio_filter"]["max_ratio"],
    ) == (0.5, 2.0)


def test_nothing_is_installed_and_pillow_stays_strict(folder, make_settings, recipe):
    run(folder, make_settings, recipe, [{"text_length_filter": {"min_len": 1}}])
    from data_juicer.utils.lazy_loader import LazyLoader

    with pytest.raises(SettingsError, match="needs nothing-such"):
        LazyLoader._install_package("nothing-such")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_executors_are_imported_by_who_asks_for_one_alone(folder, make_settings):
    collected = collect(make_settings(dataset=str(folder)))
    script = """
import sys
from pathlib import Path
from storyboard import juicer
from storyboard.dataset import Captions
juicer.ROWS_PER_PROCESS = 1  # several processes, for which operators are pickled
kept, *_ = juicer.run(Captions.load(Path(sys.argv[1])), [{"image_shape_filter": {}}], Path("recipe.yaml"))
assert kept and "ray" not in sys.modules
import data_juicer.core
assert data_juicer.core.DefaultExecutor and "ray" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(collected.folder)], check=True)


def test_captions_survive_the_loss_of_hard_links(folder, make_settings, recipe, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("storyboard.cleaning.os.link", refuse)
    report = run(folder, make_settings, recipe, [{"text_length_filter": {"min_len": 1}}])
    shutil.rmtree(report.origin)
    assert all(report.captions.path(row).is_file() for row in report.captions.rows)
