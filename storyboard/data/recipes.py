"""Recipes: which of Data-Juicer's operators run over a data set, in which order."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storyboard import resources
from storyboard.data import operator_list
from storyboard.errors import SettingsError

RECIPES = resources.path("recipes")
MOST_STEPS = 100
LONGEST_NAME = 80  # characters of an operator


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
        DatasetError: The file is not text.
    """
    from storyboard.data import recipe_file

    path = path_of(name)
    content = recipe_file.read(path)
    process = content.get("process") if isinstance(content, dict) else None
    if not isinstance(process, list) or not process:
        wide = isinstance(content, str) and "：" in content
        hint = " (YAML needs ':' and a space, not '：')" if wide else ""
        raise SettingsError(
            f"{path} needs a list called process{hint}, each entry one operator with its "
            "parameters, as in recipes/sample.yaml."
        )
    if len(process) > MOST_STEPS:
        raise SettingsError(
            f"{path} lists {len(process)} operators, over {MOST_STEPS}: leave out some of them."
        )
    return Recipe(path, [_step(entry, n, path) for n, entry in enumerate(process, 1)])


def path_of(name: str) -> Path:
    """The file of the recipe ``name``.

    Raises:
        SettingsError: There is none.
    """
    for path in (RECIPES / f"{name}.yaml", Path(name)):
        # such as a name that is too long, or ~user of a user that is not there
        with contextlib.suppress(OSError, RuntimeError):
            if path.expanduser().is_file():
                return path.expanduser()
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise SettingsError(
        f"There is no recipe {name!r}: set recipe to one of {known}, or to the path of a YAML file."
    )


def _step(entry: object, number: int, path: Path) -> Step:
    """The step that an entry of ``process`` is."""
    where = f"Entry {number} of process in {path}"
    if isinstance(entry, str):  # an operator as Data-Juicer has it by default
        entry = {entry: None}
    if not isinstance(entry, dict) or not entry:
        raise SettingsError(f"{where} is no operator: write its name, a colon, its parameters.")
    if len(entry) > 1:
        names = ", ".join(map(str, list(entry)[:4]))
        raise SettingsError(
            f"{where} has {names} side by side: start each operator with '- ', and indent its "
            "parameters further than its name."
        )

    ((operator, parameters),) = entry.items()
    if len(operator) > LONGEST_NAME:
        raise SettingsError(f"{where} is called {operator[:40]!r}…, which is no operator's name.")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        raise SettingsError(
            f"{where} gives {operator} {str(parameters)[:80]!r}: give each parameter by its name."
        )
    return Step(operator, parameters)


def check_safe(recipe: Recipe, allowed: Sequence[str] = ()) -> None:
    """Raise SettingsError where a step would do more than compute on captions and pictures.

    Args:
        allowed: Operators that may (``Settings.allow_operators``).
    """
    for step in recipe.steps:
        for name in ("trust_remote_code",):  # never, whatever the settings allow
            if step.parameters.get(name):
                raise SettingsError(
                    f"{recipe.path} sets {name} of {step.operator}, by which code that came with a "
                    "model would run: take it out."
                )
        if step.operator in allowed:
            continue
        if similar := operator_list.similar_to(step.operator):
            raise SettingsError(
                f"{recipe.path} names the operator {step.operator!r}, which Data-Juicer does not "
                f"have: write {similar!r} if you mean that."
            )
        if reason := operator_list.why_unsafe(step.operator):
            raise _unsafe(recipe, step, f"has the operator {step.operator}, which {reason}")
        unsafe = operator_list.UNSAFE_PARAMETERS.get(step.operator, {})
        for name, reason in unsafe.items():
            if step.parameters.get(name):
                raise _unsafe(recipe, step, f"sets {name} of {step.operator}, which {reason}")
        _check_word_list(recipe, step)


def _check_word_list(recipe: Recipe, step: Step) -> None:
    """Raise SettingsError where Data-Juicer would download a list of words."""
    if step.operator not in operator_list.WORD_LISTS:
        return
    parameter, part = operator_list.WORD_LISTS[step.operator]
    folder = step.parameters.get(parameter)
    if not isinstance(folder, str) or not list(Path(folder).glob(f"*{part}*.json")):
        raise _unsafe(
            recipe,
            step,
            f"has the operator {step.operator}, which downloads a list of words unless {parameter} "
            f"is a folder with {part}.json",
        )


def _unsafe(recipe: Recipe, step: Step, problem: str) -> SettingsError:
    return SettingsError(
        f"{recipe.path} {problem}: take it out, or allow it by "
        f'allow_operators=("{step.operator}",) if you trust the recipe.'
    )
