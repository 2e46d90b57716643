"""The sample set and its recipe: every flaw is dropped or mended, hardly any good picture goes."""

import json
from collections import Counter

import pytest
from PIL import Image

from storyboard import Settings, clean, collect
from storyboard.data.collecting import SAMPLE


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    settings = Settings(output=str(tmp_path_factory.mktemp("sample")))
    captions = collect(settings)
    return captions, clean(captions, settings)


def test_the_set_is_as_described():
    flaws = json.loads((SAMPLE / "flaws.json").read_text(encoding="utf-8"))
    rows = [
        json.loads(line)
        for line in (SAMPLE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) - len(flaws) >= 300 and len(flaws) >= 40
    assert set(Counter(entry["flaw"] for entry in flaws.values())) == {
        "too_small",
        "extreme_ratio",
        "near_duplicate",
        "blurred",
        "truncated_jpeg",
        "truncated_png",
        "exif_rotated",
        "rgba",
        "palette",
        "empty_caption",
        "missing_file",
    }
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 10e6
    languages = Counter(
        "zh"
        if row["text"].startswith("二次元，")
        else "en"
        if row["text"].startswith("anime, ")
        else None
        for row in rows
        if row["text"]
    )
    assert set(languages) == {"zh", "en"} and min(languages.values()) >= 100


@pytest.mark.slow
def test_flaws_are_dropped_or_mended_and_good_pictures_stay(report):
    captions, cleaned = report
    flaws = json.loads((SAMPLE / "flaws.json").read_text(encoding="utf-8"))
    source = {row.id: row.source for row in captions.rows}
    gone = {source[row.id] for row in cleaned.dropped} | {
        item.source for item in cleaned.unreadable
    }
    kept = {row.source: cleaned.captions.path(row) for row in cleaned.captions.rows}
    for name, entry in flaws.items():
        assert (name in gone) == (entry["outcome"] == "dropped"), (name, entry)
        if entry["outcome"] == "mended":
            with Image.open(kept[name]) as image:
                assert image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
                if entry["flaw"] == "exif_rotated":
                    assert image.height > image.width
    good = set(source.values()) - flaws.keys()
    assert len(good & gone) <= 0.03 * len(good)


@pytest.mark.slow
def test_every_row_is_accounted_for_with_a_reason(report):
    captions, cleaned = report
    assert (
        cleaned.total
        == len(cleaned.captions) + len(cleaned.dropped) + len(cleaned.unreadable)
        == 353
    )
    assert all(row.reason and row.operator for row in cleaned.dropped)
    assert sum(count.dropped for count in cleaned.operators) == len(cleaned.dropped)
    assert cleaned.statistics.keys() == {row.id for row in captions.rows}
