"""What is said where an operator cannot work at all."""

from pathlib import Path

from storyboard.compat import data_juicer
from storyboard.errors import SettingsError


def lacks_package(operator: str, package: str, recipe: Path) -> SettingsError:
    """``operator`` needs a package that is not installed."""
    return SettingsError(
        f"{recipe} has {operator}, which needs {package}: "
        f"install it (pip install {package}) or take the operator out."
    )


def several_rows(operator: str, recipe: Path) -> SettingsError:
    """``operator`` makes several rows of one."""
    return SettingsError(
        f"{recipe} has {operator}, which makes several rows of one and would count a picture more "
        "than once: take it out."
    )


def fails_always(operator, cause: str, recipe: Path) -> SettingsError:
    """``operator``, an instance, fails with ``cause``, its own words, whatever the row."""
    hint = ""
    for name, parameter in data_juicer.parameters_of(type(operator)).items():
        if name.startswith("hf_"):
            model = data_juicer.arguments_of(operator).get(name, parameter.default)
            hint = f", or set {name}={model!r} to a folder that holds the model"
            break
    return SettingsError(
        f"{recipe} has {data_juicer.name_of(operator)}, which fails at every picture ({cause}): "
        f"correct its parameters{hint}, or take it out."
    )


def too_slow(operator: str, seconds: float, recipe: Path) -> SettingsError:
    """``operator`` was stopped at several captions."""
    return SettingsError(
        f"{recipe} has {operator}, which was stopped at several captions after {seconds:g} s each: "
        "simplify its pattern, shorten the captions, or take it out."
    )
