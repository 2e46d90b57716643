"""How the benchmark of cleaning counts, and that all of it runs and goes on where it was."""

import json
import shutil
import sys

import pytest
from PIL import Image

from benchmarks import cleaning_pays

LABELS = {
    "a.png": {"flaw": "blurred", "outcome": "dropped"},
    "b.png": {"flaw": "blurred", "outcome": "dropped"},
    "c.png": {"flaw": "watermark", "outcome": "dropped"},
    "d.png": {"flaw": "rgba", "outcome": "mended"},
    "e.png": {"flaw": "truncated_png", "outcome": "dropped"},
}


def test_recall_and_precision_by_kind():
    gone = {
        "a.png": "image_sharpness_filter",
        "good.png": "image_sharpness_filter",
        "e.png": cleaning_pays.UNREADABLE,
    }
    blurred, truncated, watermark = cleaning_pays.by_kind(LABELS, gone)
    assert (blurred["labelled"], blurred["found"]) == (2, 1)
    assert blurred["recall"] == blurred["precision"] == 50
    assert blurred["operators"] == ["image_sharpness_filter"]
    assert truncated["recall"] == truncated["precision"] == 100
    assert watermark["recall"] == 0 and watermark["precision"] is None
    assert "image_sharpness_filter" in cleaning_pays.kind_table([blurred, truncated, watermark])


def test_scores_are_shown_by_seed_and_with_their_spread():
    measured = {"raw": [{"match": 90.0}, {"match": 94.0}], "cleaned": [{"match": 98.0}] * 2}
    head, row = cleaning_pays.measure_table(measured, range(42, 44)).splitlines()
    assert "raw 42" in head and "cleaned 43" in head
    assert "90.00" in row and "92.00 ± 2.83" in row and "98.00 ± 0.00" in row


def test_a_strip_for_each_lora(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    strips = {"raw": [tmp_path / "1.png"] * 8, "cleaned": [tmp_path / "1.png"] * 8}
    sheet = cleaning_pays.grid(strips)
    assert sheet.getpixel((10, sheet.height - 10)) == (255, 0, 0)


def some_of_the_sample_set(folder, number: int) -> None:
    """About ``number`` of its rows into ``folder``, with their labels beside it."""
    lines = (cleaning_pays.SAMPLE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = lines[:: len(lines) // number]
    (folder / "images").mkdir(parents=True)
    names = [json.loads(line)["file_name"] for line in chosen]
    for name in names:
        if (cleaning_pays.SAMPLE / name).is_file():
            shutil.copyfile(cleaning_pays.SAMPLE / name, folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(chosen), encoding="utf-8")
    labels = cleaning_pays.labels_of(cleaning_pays.SAMPLE)
    some = {name: labels[name] for name in names if name in labels}
    folder.with_name(f"{folder.name}_labels.json").write_text(json.dumps(some), encoding="utf-8")


@pytest.mark.full
def test_all_of_it_runs_and_a_second_run_has_nothing_to_do(tmp_path, monkeypatch, capsys):
    some_of_the_sample_set(tmp_path / "some", 40)
    monkeypatch.setattr(
        sys,
        "argv",
        f"cleaning_pays --train --quick --seeds 1 --dataset {tmp_path / 'some'} "
        f"--output {tmp_path / 'output'}".split(),
    )
    cleaning_pays.main()
    first = capsys.readouterr().out.splitlines()
    result = json.loads(first[-1])
    assert result["good_dropped_percent"] < 10 and result["recall"]
    for runs in result["measured"].values():
        assert len(runs) == 1
        for run in runs:
            assert {"match", "style", "crispness", "patches 64", "patches 32"} <= run.keys()
    with Image.open(tmp_path / "output" / "raw-and-cleaned.png") as sheet:
        assert sheet.width == cleaning_pays.SHOWN * cleaning_pays.SIDE

    cleaning_pays.main()
    again = capsys.readouterr().out
    assert json.loads(again.splitlines()[-1]) == result
    assert again.count("render: nothing to do") == 2 and again.count("train: nothing to do") == 2
