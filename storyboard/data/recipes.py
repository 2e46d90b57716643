"""Recipes: which of Data-Juicer's operators run over a data set, in which order."""

import difflib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from storyboard import resources
from storyboard.compat import data_juicer
from storyboard.data.listing import read_text
from storyboard.errors import SettingsError

RECIPES = resources.path("recipes")


@dataclass(frozen=True)
class Step:
    """An operator of a recipe, with its parameters."""

    operator: str
    parameters: dict[str, object]


@dataclass(frozen=True)
class Recipe:
    """A recipe's file, and its steps in order."""

    path: Path
    steps: list[Step]

    def to_json(self) -> list[dict]:
        """The steps in Data-Juicer's form: ``[{operator: {parameter: value}}]``."""
        return [{step.operator: step.parameters} for step in self.steps]


def read(name: str) -> Recipe:
    """The recipe ``name`` of the folder ``recipes``, or the one at that path.

    Raises:
        SettingsError: No such recipe, or one that is not a Data-Juicer recipe.
    """
    import yaml

    path = _find(name)
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error

    process = content.get("process") if isinstance(content, dict) else None
    entries = process if isinstance(process, list) else []
    if not entries or not all(isinstance(entry, dict) and len(entry) == 1 for entry in entries):
        raise SettingsError(
            f"{path} needs a list called process, each entry one operator with its parameters, "
            "as in recipes/sample.yaml."
        )
    steps = [
        Step(operator, parameters or {})
        for entry in entries
        for operator, parameters in entry.items()
    ]
    return Recipe(path, steps)


def _find(name: str) -> Path:
    for path in (RECIPES / f"{name}.yaml", Path(name).expanduser()):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise SettingsError(
        f"There is no recipe {name!r}: set recipe to one of {known}, or to the path of a YAML file."
    )


def make_operators(ops: ModuleType, recipe: Recipe, workers: int) -> list:
    """Data-Juicer's operators for ``recipe``, to be run by ``workers`` processes.

    Their batches are of one row: Data-Juicer drops the whole batch in which an exception occurs.

    Raises:
        SettingsError: An operator is unknown, cannot be used here, or is given a parameter that it
            does not take.
    """
    run = {"num_proc": workers, "batch_size": 1, "skip_op_error": True}
    operators = []
    for step in recipe.steps:
        _check(ops, step, recipe.path)
        try:
            operators += ops.load_ops([{step.operator: step.parameters | run}])
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"{recipe.path} gives {step.operator} parameters that it does not take: {error}"
            ) from error
    return operators


def _check(ops: ModuleType, step: Step, path: Path) -> None:
    known = ops.OPERATORS.modules
    if step.operator not in known:
        similar = difflib.get_close_matches(step.operator, known, 1)
        raise SettingsError(
            f"{path} names the operator {step.operator!r}, which Data-Juicer does not have"
            + (f": did you mean {similar[0]!r}?" if similar else ".")
        )

    operator = known[step.operator]
    if not issubclass(operator, (ops.Filter, ops.Deduplicator, ops.Mapper)):
        raise SettingsError(
            f"{path} names {step.operator}, which neither filters, deduplicates nor maps single "
            "rows: take it out."
        )

    unknown = step.parameters.keys() - data_juicer.parameters_of(operator)
    if unknown:
        own = inspect.signature(operator.__init__).parameters.keys() - {"self", "args", "kwargs"}
        raise SettingsError(
            f"{path} gives {step.operator} the parameter {min(unknown)!r}, which it does not "
            f"take: it takes {', '.join(sorted(own))}."
        )
