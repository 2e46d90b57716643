"""A folder as a place for copies: a mounted drive or bucket, of which little is asked.

Files are written, read, listed and deleted. None is renamed, linked or overwritten, and no mode is
set.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from storyboard import artifacts, errors
from storyboard.errors import KeepingError, UnreachableError
from storyboard.keeping import contents
from storyboard.keeping.copies import Sizes

CHUNK = 2**20  # bytes


class Folder:
    """Copies in the folder ``path``, which is made if need be, those above it are not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def check(self, output: Path) -> None:
        """Raise KeepingError where this is no place for copies of ``output``."""
        with reading(self.path):
            if _is_within(self.path, output) or _is_within(output, self.path):
                raise KeepingError(
                    f"{self.path} and the output folder {output} lie in each other: name a folder "
                    "elsewhere, on a disk that the host does not wipe."
                )
            if not self.path.parent.is_dir():
                # as below a drive that is not mounted: a folder made there would be wiped too
                raise KeepingError(
                    f"There is no folder {self.path.parent}: mount the drive, or make that folder, "
                    "and run this cell again."
                )
            if self.path.exists() and not self.path.is_dir():
                raise KeepingError(f"{self.path} is a file: name a folder.")

    def check_private(self) -> None:
        """Who can read a folder is not for us to say."""

    def check_seen(self, exists: bool) -> None:
        """Whose parent is there is seen."""

    def note(self, output: Path) -> str:
        """What ought to be known of the place; empty if nothing."""
        with reading(self.path):
            if artifacts.disk_of(self.path) == artifacts.disk_of(output):
                return f"the same disk as {output}: a host that wipes one wipes both"
        return ""

    def sizes(self) -> Sizes | None:
        """Bytes of what may be files of copies, by name; None where there is no folder."""
        with reading(self.path):
            if not self.path.is_dir():
                return None
            paths = [path for path in self.path.iterdir() if path.is_file()]
            for name in contents.FOLDERS:
                paths += [path for path in (self.path / name).rglob("*") if path.is_file()]
            return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in paths}

    def others(self, sizes: Sizes) -> list[str]:
        """Everything in the folder but hidden files, which systems make in any."""
        with reading(self.path):
            return sorted(path.name for path in self.path.iterdir() if path.name[0] != ".")

    def fetch(self, names: Iterable[str]) -> Path:
        """A folder in which the files ``names`` can be read."""
        return self.path

    def write(self, files: Mapping[str, Path]) -> None:
        """Copy files here, under new names.

        Raises:
            KeepingError: The place is full, gone or read-only.
        """
        try:
            self.path.mkdir(exist_ok=True)
            self._check_room(sum(path.stat().st_size for path in files.values()))
            for name, path in files.items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(path, target)
        except OSError as error:
            raise KeepingError(
                f"{self.path} did not take the copy ({reason(error)}): see whether it is mounted, "
                "writable and has room; the copy before is untouched."
            ) from error

    def _check_room(self, needed: int) -> None:
        usage = shutil.disk_usage(self.path)
        if usage.total and usage.free < needed:  # some mounts know neither
            raise KeepingError(
                f"{self.path} lacks {-(-(needed - usage.free) // 10**6)} MB for the copy: free "
                "some space there, or name another place; the copy before is untouched."
            )

    def remove(self, names: Iterable[str]) -> None:
        """Delete files, and folders that become empty; what cannot be deleted stays."""
        for name in names:
            path = self.path / name
            try:
                path.unlink(missing_ok=True)
                for parent in path.relative_to(self.path).parents[:-1]:
                    (self.path / parent).rmdir()
            except OSError:  # other files are in there
                continue


def _is_within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder``, or lies in it, also by a name in another case."""
    path, folder = path.resolve(), folder.resolve()
    if path.is_relative_to(folder):
        return True
    around = [parent for parent in (path, *path.parents) if parent.exists()]
    return folder.exists() and any(parent.samefile(folder) for parent in around)


def reason(error: OSError) -> str:
    """What the operating system says, in its words."""
    return os.strerror(error.errno) if error.errno else errors.reason(error)


def _copy(source: Path, target: Path) -> None:
    """Write the bytes of ``source``: system calls that copy whole files are not for every mount."""
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, CHUNK)
        writing.flush()
        try:
            os.fsync(writing.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise
    if target.stat().st_size != source.stat().st_size:
        raise OSError(f"{target} came out cut off")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the operating system refuses inside, as a drive that drops out does, is the place's.

    Raises:
        UnreachableError: As one sentence.
    """
    try:
        yield
    except OSError as error:
        raise UnreachableError(
            f"{path} cannot be read ({reason(error)}): see whether it is mounted, and run this "
            "cell again."
        ) from error
