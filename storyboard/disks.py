"""What goes wrong when something is written: full, read-only and failing disks, as one sentence."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storyboard.errors import ResourceError, StoryboardError

FULL = (errno.ENOSPC, errno.EDQUOT)
# only what is written meets these; others may come from a file that is read
OF_WRITING = (*FULL, errno.EROFS, errno.EFBIG, errno.EIO)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
# Rust's libraries (safetensors, tokenizers) and Arrow keep the number in their text alone
NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|\bcode: (\d+)")


def errno_of(error: BaseException) -> int | None:
    """The operating system's number of what ``error``, or one that it was raised from, says."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno:
            return current.errno
        if found := NUMBER.search(str(current)):
            return int(next(filter(None, found.groups())))
        current = current.__cause__ or current.__context__
    return None


def disk_is_full(error: BaseException) -> bool:
    """Whether ``error``, or one that it was raised from, says that a disk or a quota is full."""
    return errno_of(error) in FULL


def not_written(path: Path, error: BaseException) -> ResourceError:
    """``error``, which writing ``path`` or into it met, as one sentence."""
    number = errno_of(error)
    again = "and run this cell again: nothing half-made was kept"
    if number in FULL:
        return ResourceError(
            f"The disk of {path} became full: free some space or set output to another disk, "
            f"{again}."
        )
    if number in DENIED:
        return ResourceError(
            f"{path} cannot be written ({os.strerror(number)}): make it writable or set output to "
            f"another folder, {again}."
        )
    if number in IN_THE_WAY:
        return ResourceError(
            f"{path} cannot be written, a file or folder of another kind is in its way "
            f"({os.strerror(number)}): move that away or set output to another folder, {again}."
        )
    reason = os.strerror(number) if number else type(error).__name__
    return ResourceError(
        f"{path} cannot be written ({reason}): look after the disk or set output to another one, "
        f"{again}."
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the operating system refuses while ``path`` is written becomes one sentence.

    Raises:
        ResourceError: The disk is full, read-only or failing, or something is in the way.
    """
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """As ``writing``, around calls of libraries that also read elsewhere: their errors pass.

    Raises:
        ResourceError: The disk of ``folder`` is full, read-only or failing.
    """
    try:
        yield
    except StoryboardError:
        raise
    except Exception as error:  # libraries wrap what the system said in exceptions of their own
        named = _named(folder, error)
        of_writing = errno_of(error) in OF_WRITING
        if not of_writing and not (named and errno_of(error) in (*DENIED, *IN_THE_WAY)):
            raise
        raise not_written(named or folder, error) from error


def _named(folder: Path, error: BaseException) -> Path | None:
    """The file in ``folder`` that ``error`` names."""
    for attribute in ("filename2", "filename"):
        name = getattr(error, attribute, None)
        if isinstance(name, str) and Path(name).absolute().is_relative_to(folder.absolute()):
            return Path(name)
    return None
