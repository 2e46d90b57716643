"""Durations as people write them: "3h", "2h30m", "90m", "45s", or a number of minutes."""

import math
import re

from storyboard.errors import SettingsError, brief

LONGEST = 30 * 24 * 3600  # seconds
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds(duration: str | float) -> float:
    """How long ``duration`` is.

    Args:
        duration: Hours, minutes and seconds such as ``"2h30m"``, or minutes as a number or its
            text.

    Raises:
        ValueError: It is nothing of the kind, not above 0, or over ``LONGEST``.
    """
    result = _of_text(duration) if isinstance(duration, str) else _of_minutes(duration)
    if not 0 < result <= LONGEST:
        raise ValueError("no time above 0 and up to 30 days")
    return result


def _of_text(text: str) -> float:
    """NaN where it is no duration."""
    compact = "".join(text.split()).lower()
    found = _PARTS.fullmatch(compact)
    if found and compact:
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + rest
    return float(compact) * 60 if _NUMBER.fullmatch(compact) else math.nan


def _of_minutes(minutes: object) -> float:
    """NaN where it is no number of minutes that can be meant."""
    if isinstance(minutes, bool) or not isinstance(minutes, int | float):
        return math.nan
    # a whole number may be too large for a float
    return minutes * 60 if 0 < minutes <= LONGEST / 60 else math.nan


def shown(duration: float) -> str:
    """Seconds as ``"2h30m"``, ``"5m"`` or ``"40s"``, rounded to two units."""
    if duration < 60:
        return f"{duration:.3g}s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m{rest}s" if rest else f"{minutes}m"


def check(name: str, duration: str | float | None) -> None:
    """Raise SettingsError unless the setting ``name`` is a duration or None."""
    try:
        if duration is not None:
            seconds(duration)
    except ValueError as error:
        raise SettingsError(
            f'{name}={brief(duration)} must be a time such as "3h", "2h30m" or "90m", minutes as '
            "a number, or None."
        ) from error
