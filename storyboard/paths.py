"""Paths that a user writes: whether they can be any."""

import os
import re
from pathlib import Path, PureWindowsPath

from storyboard import places
from storyboard.errors import SettingsError, brief

MAX_NAME = 255  # bytes in a part of a path, on every usual file system
MAX_FOLDER_NAME = 100  # bytes of a name that a user gives a folder of ours
MAX_PATH = 4096  # bytes in a path, on Linux
WINDOWS = os.name == "nt"
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
WINDOWS_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE
)
WINDOWS_SIGNS = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')
WINDOWS_MAX_PATH = 260  # characters, where long paths are not switched on
LONGEST_BELOW = 140  # characters of the longest path in an output folder


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
    if WINDOWS and not places.names_hub(value):
        _check_windows(name, value)
    # Path.expanduser raises where there is no such user, and a name keeps its form here
    return os.path.expanduser(value)  # noqa: PTH111


def folder_name(title: str, value: object) -> str:
    """``value``, which a user calls a folder of ours.

    Args:
        title: Of what has the name, for the message.

    Raises:
        SettingsError: A folder cannot be called so on every system.
    """
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or not _encodable(value)
        or not 1 <= len(os.fsencode(value)) <= MAX_FOLDER_NAME
        or value != value.strip()
        or value.startswith(".")
        or WINDOWS_SIGNS.search(value)
        or WINDOWS_RESERVED.fullmatch(value)
        or "/" in value
        or "\\" in value
    ):
        raise SettingsError(
            f"{title} {brief(value)} must be one that a folder can have on every system: up to "
            f"{MAX_FOLDER_NAME} bytes of letters, digits, spaces, - and _."
        )
    return value


def check_output(name: str, folder: Path) -> None:
    """Raise SettingsError where files in the output folder would have too long a path."""
    longest = WINDOWS_MAX_PATH - LONGEST_BELOW
    if WINDOWS and len(str(folder.absolute())) > longest:
        raise SettingsError(
            f"{name}={brief(str(folder))} is at a path of over {longest} characters, and Windows "
            f"opens files up to {WINDOWS_MAX_PATH}: name a folder nearer to the root of a drive."
        )


def _check_windows(name: str, value: str) -> None:
    """Raise SettingsError where a part of ``value`` cannot be a name on Windows."""
    for part in PureWindowsPath(value).parts:
        if part == PureWindowsPath(value).anchor or part in (".", ".."):
            continue
        if WINDOWS_RESERVED.fullmatch(part) or WINDOWS_SIGNS.search(part):
            raise SettingsError(
                f"{name}={brief(value)} holds {brief(part)}, which cannot be a name on Windows: "
                "name another."
            )


def _encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
