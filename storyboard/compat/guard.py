"""Checks that a library still has the private parts that this package reaches into."""

import inspect
from collections.abc import Callable
from importlib.metadata import version

from storyboard.errors import LibraryError


def require(package: str, owner: object, *names: str) -> None:
    """Raise LibraryError unless ``owner``, which belongs to ``package``, has all of ``names``."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        where = getattr(owner, "__name__", type(owner).__name__)
        raise LibraryError(
            f"{package} {version(package)} has no {where}.{missing[0]}, which is needed here: "
            "install the version that constraints.txt names."
        )


def require_parameters(package: str, function: Callable, *names: str) -> None:
    """Raise LibraryError unless ``function`` of ``package`` takes all of ``names``."""
    parameters = inspect.signature(function).parameters
    for name in names:
        check(package, name in parameters, f"{function.__qualname__} no longer takes {name}")


def check(package: str, condition: bool, problem: str) -> None:
    """Raise LibraryError, which says ``problem``, unless ``condition`` holds."""
    if not condition:
        raise changed(package, problem)


def changed(package: str, problem: str) -> LibraryError:
    """The error that says what is different in an installed library."""
    return LibraryError(
        f"{package} {version(package)} has changed ({problem}): "
        "install the version that constraints.txt names."
    )
