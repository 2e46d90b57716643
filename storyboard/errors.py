"""One exception for each kind of failure.

Every message is one sentence: what is wrong, where, what to do.
"""

import os
import reprlib
import unicodedata
from collections.abc import Callable

MAX_SHOWN = 100  # characters of a value in a message
_MAX_DIGITS = 40
_UNSHOWN = ("Cc", "Cs")  # control characters, halves of surrogate pairs


class _Brief(reprlib.Repr):
    """``repr`` in one line of bounded length, whatever the object."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = MAX_SHOWN
        self.maxlevel = 3

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write whole numbers of more than 4,300 digits
        if abs(value) >= 10**_MAX_DIGITS:
            return f"<a whole number of {value.bit_length()} bits>"
        return repr(value)


def brief(value: object) -> str:
    """``repr(value)`` for a message: one line, about ``MAX_SHOWN`` characters at most."""
    text = " ".join(_Brief().repr(value).split())
    return text if len(text) <= 2 * MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def one_line(text: object) -> str:
    """A sentence or a path in one line that every terminal can write.

    Names of files hold line breaks, and bytes that are no text, which Python reads as halves of
    surrogate pairs.
    """
    text = os.fspath(text) if isinstance(text, os.PathLike) else str(text)
    if text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in _UNSHOWN else sign
        for sign in " ".join(text.splitlines())
    )


class StoryboardError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: a notebook shows the message without the stack."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(StoryboardError):
    """A setting, prompt or recipe that cannot work, raised before anything expensive begins."""


class PictureError(StoryboardError):
    """A picture file that cannot be read; ``reason`` is the message without the file's name."""

    def __init__(self, message: str, name: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple:  # as it comes from a process of workers
        return type(self), (str(self), self.name, self.reason)


class DatasetError(StoryboardError):
    """A picture set that cannot be read, or of which nothing is left."""


class BaseError(StoryboardError):
    """Weights of a base that are missing, truncated or of another layout."""


class LoraError(StoryboardError):
    """A LoRA file that does not fit the base, or did not attach whole."""


class TrainingError(StoryboardError):
    """Training that diverged."""


class RenderingError(StoryboardError):
    """A picture that came out black, blank or not finite, or whose place another one took."""


class ScoringError(StoryboardError):
    """Nothing can be measured."""


class ResourceError(StoryboardError):
    """Not enough disk or memory for what was asked."""


class LibraryError(StoryboardError):
    """An installed library lacks what this package reaches into."""


class KeepingError(StoryboardError):
    """A kept copy that cannot be written or read, or that would replace something else."""


class UnreachableError(KeepingError):
    """A place for copies that does not answer now, and may again later."""


class TimeBudgetError(StoryboardError):
    """Training that its time budget ended before the last step; its state is saved."""


class InstallError(StoryboardError):
    """Packages that cannot be installed here, or would break what is here."""


class BundleError(StoryboardError):
    """A story bundle that is not whole, or not safe to open or to give away."""


def reason(error: BaseException, mask: Callable[[str], str] = str) -> str:
    """Type and first line of an error of a library, for a message; of our own the message alone.

    Args:
        mask: Takes out of its text what may not be shown, before it is cut short.
    """
    lines = mask(str(error)).strip().splitlines()
    first = " ".join(lines[0].split()).rstrip(".") if lines else ""
    if isinstance(error, StoryboardError):
        return first
    shown = first if len(first) <= 2 * MAX_SHOWN else f"{first[: 2 * MAX_SHOWN]}…"
    return f"{type(error).__name__} {shown}".strip()
