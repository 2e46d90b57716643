"""How the benchmark of cleaning counts, and that its grid is drawn."""

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


def test_scores_are_shown_with_their_spread():
    measured = {"raw": [{"match": 90.0}, {"match": 94.0}], "cleaned": [{"match": 98.0}] * 2}
    table = cleaning_pays.measure_table(measured)
    assert "92.00 ± 2.83" in table and "98.00 ± 0.00" in table


def test_a_strip_for_each_lora(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    strips = {"raw": [tmp_path / "1.png"] * 8, "cleaned": [tmp_path / "1.png"] * 8}
    sheet = cleaning_pays.grid(strips)
    assert sheet.getpixel((10, sheet.height - 10)) == (255, 0, 0)
