"""Paths that a user writes: whether they can be any."""

import os

from storyboard.errors import SettingsError, brief

MAX_NAME = 255  # bytes in a part of a path, on every usual file system
MAX_PATH = 4096  # bytes in a path, on Linux


def taken(name: str, value: object) -> str:
    """The text of a path, with its ``~`` expanded.

    Args:
        name: Of the setting, for the message.

    Raises:
        SettingsError: It can be no path.
    """
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{name}={brief(value)} must be a name or a path.")
    if "\0" in value or not _encodable(value):
        raise SettingsError(f"{name}={brief(value)} holds a character that no path can have.")

    parts = os.fsencode(value).replace(b"\\", b"/").split(b"/")
    if len(os.fsencode(value)) > MAX_PATH or max(map(len, parts)) > MAX_NAME:
        raise SettingsError(
            f"{name}={brief(value)} is too long for a path: a name in it can have {MAX_NAME} bytes."
        )
    # Path.expanduser raises where there is no such user, and a name keeps its form here
    return os.path.expanduser(value)  # noqa: PTH111


def _encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
