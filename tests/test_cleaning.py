import csv
import shutil
import subprocess
import sys

import pytest
import yaml

from storyboard import clean, collect
from storyboard.data import operator_list
from storyboard.data.captions import CaptionRow, Captions
from storyboard.data.writing import write
from storyboard.errors import DatasetError
from tests.conftest import ROOT, picture


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
    assert [(count.operator, count.kept, count.dropped) for count in report.operators] == [
        ("text_length_filter", 9, 1),
        ("image_shape_filter", 8, 1),
    ]
    assert {row.id: row.operator for row in report.dropped} == {
        "0005": "text_length_filter",
        "0003": "image_shape_filter",
    }
    assert (
        "image_width 80" in report.dropped[1].reason and "min_width 200" in report.dropped[1].reason
    )
    assert report.statistics["0000"]["image_width"] == 256


def test_metadata_csv_is_what_diffsynth_reads(folder, make_settings, recipe):
    report = run(folder, make_settings, recipe, [{"text_length_filter": {"min_len": 1}}])
    with (report.captions.folder / "metadata.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["image", "prompt"] and [row["prompt"] for row in rows] == [
        f"画 {seed}" for seed in range(10)
    ]
    assert all((report.captions.folder / row["image"]).is_file() for row in rows)


def test_a_mapper_rewrites_the_captions(folder, make_settings, recipe):
    (folder / "2.txt").write_text("看 https://example.com/x 画", encoding="utf-8")
    report = run(folder, make_settings, recipe, [{"clean_links_mapper": {}}])
    assert "http" not in report.captions.rows[2].text and report.captions.rows[1].text == "画 1"


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
    assert len(report.captions) == 9 and [row.id for row in report.dropped] == ["0006"]


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
    assert [count.operator for count in clean(captions, settings).operators] == [
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


def test_captions_survive_the_loss_of_hard_links(folder, make_settings, recipe, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("storyboard.data.writing.os.link", refuse)
    report = run(folder, make_settings, recipe, [{"text_length_filter": {"min_len": 1}}])
    shutil.rmtree(report.origin)
    assert all(report.captions.path(row).is_file() for row in report.captions.rows)


@pytest.mark.parametrize("image", ["../0.png", "images/../../0.png", "{outside}"])
def test_a_listing_that_points_elsewhere_writes_nothing_there(tmp_path, folder, image):
    outside = tmp_path / "elsewhere.png"
    image = image.format(outside=outside)
    captions = Captions(folder, [CaptionRow("0000", "a", image)])
    (tmp_path / "cleaned").mkdir()
    with pytest.raises(DatasetError, match="which lies outside of it"):
        write(captions, {"0000": "a"}, tmp_path / "cleaned")
    assert not outside.exists() and not list((tmp_path / "cleaned").iterdir())


@pytest.mark.slow
def test_collecting_and_cleaning_import_neither_torch_nor_ray(folder, tmp_path):
    """They take seconds and torch 500 MB; networks and ``Settings.cluster`` alone need them."""
    process = yaml.safe_load((ROOT / "recipes" / "sample.yaml").read_text(encoding="utf-8"))
    steps = [step for step in process["process"] if not step.keys() & operator_list.NETWORKS]
    assert len(steps) == len(process["process"]) - len(operator_list.NETWORKS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"process": steps}), encoding="utf-8")
    script = (
        "import sys; from storyboard import Settings, clean, collect;"
        "settings = Settings(dataset=sys.argv[1], output=sys.argv[2], recipe=sys.argv[3]);"
        "clean(collect(settings), settings); assert not {'torch', 'ray'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "out"), str(recipe)]
    subprocess.run(command, check=True)
