"""What all stages share: one run at a time in a folder, and disks that refuse."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from storyboard import artifacts, disks, locks
from storyboard.compat import tqdm

P = ParamSpec("P")
R = TypeVar("R")


def stage(what: str, *replaced: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function with a parameter ``settings`` a stage, which works in ``settings.folder``.

    It is alone there (``locks.hold``), what disks refuse becomes one sentence, and folders that
    are not ours are refused before any work.

    Args:
        what: Its name, for messages.
        replaced: Folders in there that it makes anew.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*arguments: P.args, **named: P.kwargs) -> R:
            tqdm.import_without_advice()
            folder = signature.bind(*arguments, **named).arguments["settings"].folder
            with disks.working_in(folder), locks.hold(folder, what):
                for name in replaced:
                    artifacts.check_ours(folder / name)
                return function(*arguments, **named)

        return run

    return decorate
