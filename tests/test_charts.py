import base64
import re

import pytest

from storyboard import charts


def drawing(page):
    """The SVG of the image in ``page``."""
    (encoded,) = re.findall(r"src='data:image/svg\+xml;base64,([^']*)'", page)
    return base64.b64decode(encoded).decode()


def test_smoothing_is_unbiased_at_the_start():
    assert charts.smooth([2.0, 2.0, 2.0]) == pytest.approx([2, 2, 2])


def test_the_curve_is_drawn_from_two_points_on():
    assert charts.curve([1.0], 10) == "" and "<polyline" in drawing(charts.curve([1.0, 0.5], 10))


def test_a_curve_has_every_loss_its_mean_and_named_axes():
    losses = [1.0, 0.5, 0.75, 0.25]
    drawn = charts.curve(losses, 1000)
    lines = re.findall(r"points='([^']*)'", drawing(drawn))
    assert [len(line.split()) for line in lines] == [4, 4]
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert sorted(range(4), key=heights.__getitem__) == [0, 2, 1, 3]  # the largest is on top
    assert ">step<" in drawn and ">loss: " in drawn and ">1.000<" in drawn and ">1,000<" in drawn


def test_one_wild_loss_does_not_flatten_a_curve():
    losses = [0.5 + 0.001 * (step % 7) for step in range(200)]
    losses[3] = 50.0
    assert "50.000" not in charts.curve(losses, 200)


def bars_of(page):
    """(x, height, colour) of each bar, from the left and from below."""
    found = re.findall(r"<rect x='(\d+)'.*?height='([\d.]+)' fill='(#\w+)'", drawing(page))
    return [(int(x), float(height), colour) for x, height, colour in found]


def test_a_histogram_greys_what_its_limits_drop_and_names_them():
    drawn = charts.histogram("sharpness", [0.0, 0.1, 0.1, 0.9, 1.0], low=0.5)
    bars = bars_of(drawn)
    assert [colour for _, _, colour in bars] == [charts.MUTED] * 2 + [charts.ACCENT] * 2
    assert bars[1][1] == charts.TALLEST == 2 * bars[0][1]
    assert ">sharpness ≥ 0.5</figcaption>" in drawn and drawing(drawn).count("<path") == 1


def test_a_bar_has_both_colours_where_its_values_are_kept_and_dropped():
    last = charts.BIN * (charts.BINS - 1)
    half = charts.TALLEST / 2
    drawn = charts.histogram("width", [256, 511, 512], low=512)
    assert bars_of(drawn) == [
        (0, half, charts.MUTED),
        (last, half, charts.ACCENT),
        (last, half, charts.MUTED),
    ]
    assert bars_of(charts.histogram("width", [1, 2], high=1))[0][2] == charts.ACCENT


def test_what_is_no_number_is_not_drawn():
    drawn = charts.histogram("x", [float("nan"), 1.0, float("inf")])
    assert len(bars_of(drawn)) == 1
    assert bars_of(charts.histogram("x", [float("nan")], low=1)) == []


def test_equal_values_and_limits_out_of_sight_are_drawn():
    drawn = charts.histogram("<width>", [256, 256], 200, 300)
    assert drawing(drawn).count("<path") == 0 and "&lt;width&gt; ≥ 200, ≤ 300" in drawn


def test_large_numbers_are_written_out():
    drawn = charts.histogram("size", [618.0, 93_830.0], 1024, 20_971_520)
    assert ">618<" in drawn and ">93,830<" in drawn and "≥ 1024, ≤ 20,971,520" in drawn


def test_a_bar_of_progress_is_filled_as_far_as_it_is_done():
    assert "width:0.0%" in charts.progress(0) and "width:25.0%" in charts.progress(0.25)
