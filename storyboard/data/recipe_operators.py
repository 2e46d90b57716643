"""Data-Juicer's operators for a recipe, made after each parameter was checked."""

import difflib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from storyboard.compat import data_juicer
from storyboard.data import operator_errors, operator_list
from storyboard.data.recipes import Recipe, Step
from storyboard.errors import SettingsError, StoryboardError

SIZE = re.compile(r"\d+ *([kmgtpezy]i?b)?", re.IGNORECASE)  # what Data-Juicer reads as it stands
# One that repeats what repeats, such as (a+)+, may take time that doubles with each character.
NESTED_REPEAT = re.compile(r"([*+]|\{\d+,\})[?+]?\)([*+]|\{\d+,\})")
LONGEST_TEXT = 1000  # characters that are put in for each match
DEFAULT_PERMUTATIONS = 256  # of document_minhash_deduplicator
EXECUTION = {"num_proc", "batch_size", "skip_op_error"}  # how, not what: set here
ELSEWHERE = {  # where a row's content is, and what would be written beside the cleaned set
    "save_dir": "pictures are written into the cleaned set",
    "stats_export_path": "statistics are written into the cleaned set",
    "work_dir": "nothing else is written",
    "runtime_env": "operators run in this process",
}


def make(ops: ModuleType, recipe: Recipe, workers: int) -> list:
    """Data-Juicer's operators for ``recipe``, to be run by ``workers`` processes.

    Raises:
        SettingsError: An operator is unknown, cannot be used here, lacks a package, or is given a
            parameter that it does not take or that is of another type; with its own words.
    """
    from storyboard.data import model_operators  # noqa: F401  (registers this package's own)

    if any(step.operator in operator_list.NEEDS_OPENCV for step in recipe.steps):
        from storyboard.compat import opencv  # noqa: F401  (its import changes the environment)

    run = {"num_proc": workers, "batch_size": 1, "skip_op_error": True}
    made = []
    for step in recipe.steps:
        _check(ops, step, recipe.path)
        try:
            made += ops.load_ops([{step.operator: step.parameters | run}])
        except data_juicer.MissingPackage as error:
            name, package = step.operator, error.package
            raise operator_errors.lacks_package(name, package, recipe.path) from error
        except StoryboardError:
            raise
        except Exception as error:  # an operator may raise anything when it is made
            raise SettingsError(
                f"{recipe.path} gives {step.operator} parameters that it does not take "
                f"({data_juicer.message_of(error)}): correct them."
            ) from error
    return made


def _check(ops: ModuleType, step: Step, path: Path) -> None:
    known = ops.OPERATORS.modules
    if step.operator not in known:
        similar = difflib.get_close_matches(step.operator, known, 1)
        raise SettingsError(
            f"{path} names the operator {step.operator[:80]!r}, which Data-Juicer does not have"
            + (f": write {similar[0]!r} if you mean that." if similar else ".")
        )

    operator = known[step.operator]
    if not issubclass(operator, (ops.Filter, ops.Deduplicator, ops.Mapper)):
        raise SettingsError(
            f"{path} names {step.operator}, which neither filters, deduplicates nor maps single "
            "rows: take it out."
        )

    parameters = data_juicer.parameters_of(operator)
    for name, value in step.parameters.items():
        if name not in parameters:
            own = inspect.signature(operator.__init__).parameters.keys()
            own -= {"self", "args", "kwargs"}
            raise SettingsError(
                f"{path} gives {step.operator} the parameter {name[:80]!r}, which it does not "
                f"take: it takes {', '.join(sorted(own)) or 'none'}."
            )
        if problem := _problem(step.operator, name, value, parameters[name]):
            shown = str(value) if len(str(value)) < 80 else f"{str(value)[:80]}…"
            quoted = repr(shown) if isinstance(value, str) else shown
            raise SettingsError(f"{path} gives {step.operator} {name}={quoted}, which {problem}.")
    _check_together(step, parameters, path)


def _problem(operator: str, name: str, value: object, parameter: data_juicer.Parameter) -> str:
    """What is wrong with ``value`` for a parameter of ``operator``; empty where nothing is."""
    if name in EXECUTION or (value == parameter.default and type(value) is type(parameter.default)):
        return ""
    if name in ELSEWHERE:
        return f"cannot be set here, as {ELSEWHERE[name]}: take it out"
    if name.endswith("_key") and name != "field_key":
        return f"must be {parameter.default!r}, as rows are a caption and its picture: take it out"
    if any(_is_no_number(each) for each in _leaves(value)):
        return "must be a finite number that 64 bits hold: leave it out for no limit"
    if mismatch := parameter.mismatch(_json(value)):
        unquoted = isinstance(value, str) and _is_number(value)
        return mismatch + (": write it without quotes" if unquoted else "")

    low, high = operator_list.LIMITS.get((operator, name), (-math.inf, math.inf))
    numbers = [each for each in _leaves(value) if isinstance(each, int | float)]
    if not all(low <= each <= high for each in numbers):
        return f"must be from {low:g} to {high:g}"
    return _problem_of_text(operator, name, value)


def _problem_of_text(operator: str, name: str, value: object) -> str:
    """What is wrong with texts in ``value``; empty where nothing is."""
    texts = [each for each in _leaves(value) if isinstance(each, str)]
    if operator == "image_size_filter" and not all(map(SIZE.fullmatch, texts)):
        return 'must be a whole number with a unit, such as "10KB"'
    if "pattern" in name and any(map(NESTED_REPEAT.search, texts)):
        return "repeats what is repeated, which may take for ever: write it without (…+)+"
    if ("repl" in name or "join" in name) and any(len(each) > LONGEST_TEXT for each in texts):
        return f"must have at most {LONGEST_TEXT:,} characters"
    if name == "cv_classifier" and value and not Path(texts[0]).is_file():
        return "must be the path of an XML file of OpenCV"
    return ""


def _check_together(
    step: Step, parameters: Mapping[str, data_juicer.Parameter], path: Path
) -> None:
    """Raise SettingsError where parameters contradict each other, so that all rows would go."""
    given = step.parameters
    for name in given:
        pair = (name.replace("max_", "min_", 1), name.replace("min_", "max_", 1))
        if pair[0] == pair[1] or not set(pair) <= parameters.keys() or given.get("reversed_range"):
            continue
        low, high = (given.get(each, parameters[each].default) for each in pair)
        if _is_amount(low) and _is_amount(high) and low > high:
            raise SettingsError(
                f"{path} gives {step.operator} {pair[0]}={low:g} above {pair[1]}={high:g}, by "
                "which no row stays: set both."
            )

    bands, rows = given.get("num_bands"), given.get("num_rows_per_band")
    if bands and rows and bands * rows > given.get("num_permutations", DEFAULT_PERMUTATIONS):
        raise SettingsError(
            f"{path} gives {step.operator} num_bands={bands} of num_rows_per_band={rows}, more "
            "than num_permutations: lower one of them."
        )


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: object) -> Iterable[object]:
    """The single values in lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def _is_no_number(value: object) -> bool:
    return isinstance(value, int | float) and not abs(value) <= sys.maxsize  # nor for NaN


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json(value: object) -> str:
    """``value`` as JSON; what JSON does not have, such as a date, as text."""
    return json.dumps(value, default=str)
