"""Durations as people write them."""

import math

import pytest

from storyboard import durations


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("3h", 3 * 3600),
        ("2h30m", 9000),
        ("2 h 30 m", 9000),
        ("90m", 5400),
        ("1.5H", 5400),
        ("45s", 45),
        ("90", 5400),
        (90, 5400),
        (0.5, 30),
    ],
)
def test_hours_minutes_and_seconds(written, seconds):
    assert durations.seconds(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "3 hours", "h", "30m2h", "-1", "0m", "721h", "nan", "1e3"),
        *(0, -5, True, math.nan, math.inf, 10**400, None, [3]),
    ],
    ids=str,
)
def test_everything_else_is_refused(written):
    with pytest.raises(ValueError, match="no time above 0"):
        durations.seconds(written)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9000, "2h30m"), (10800, "3h"), (90, "1m30s"), (300, "5m"), (0.06, "0.06s"), (59, "59s")],
)
def test_durations_are_shown_as_they_are_written(seconds, text):
    assert durations.shown(seconds) == text
    assert durations.seconds(text) == pytest.approx(seconds)
