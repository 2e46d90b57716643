"""What operators measure of rows, in numbers and words, and the limits that they keep."""

import sys
from collections.abc import Mapping, Sequence

from storyboard.compat import data_juicer


def plain_statistics(statistics: Mapping[str, object]) -> dict[str, object]:
    """What was measured of a row, as JSON has it; without what could not be."""
    return {key: plain(value) for key, value in statistics.items() if value is not None}


def plain(value):
    """A measured value as a number or a list for JSON; one number for the one picture of a row."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        value = plain(value[0]) if len(value) == 1 else [plain(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def reason(operator, measured: Mapping[str, object]) -> str:
    """What ``operator`` measured of a row, and the limits that the recipe sets."""
    return f"{_listed(measured)} ({_listed(_limits(operator))})"


def _limits(operator) -> dict[str, object]:
    """The limits of an operator as the recipe sets them: ``min_...`` and ``max_...``."""
    arguments = data_juicer.arguments_of(operator)
    return {key: value for key, value in arguments.items() if key.startswith(("min_", "max_"))}


def limits_of(operator, measured: Sequence[str]) -> dict[str, list[float | None]]:
    """For each name of ``measured`` the least and the largest value that ``operator`` keeps.

    A limit belongs to the statistic of its name (``min_width`` to ``image_width``). Where no limit
    has the name of one, all are those of the only statistic there is (``min_ratio`` of
    ``aspect_ratios``). None is no limit; statistics without any are left out.
    """
    found: dict[str, list[float | None]] = {name: [None, None] for name in measured}
    limits = _limits(operator)
    owners = {
        key: name
        for key in limits
        for name in measured
        if f"_{name}".endswith(key.removeprefix("min").removeprefix("max"))
    }
    if not owners and len(found) == 1:
        owners = dict.fromkeys(limits, *found)
    for key, name in owners.items():
        number = getattr(operator, key, limits[key])  # a size is written as "1KB", held in bytes
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and abs(number) < sys.maxsize:
            found[name][key.startswith("max")] = float(number)
    return {name: sides for name, sides in found.items() if sides != [None, None]}


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
