"""Places for copies, and what is found there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from storyboard import places
from storyboard.errors import SettingsError
from storyboard.keeping import copies
from storyboard.keeping.copies import Copy, Sizes
from storyboard.keeping.folder import Folder
from storyboard.keeping.repository import Repository
from storyboard.settings import Settings


class Place(Protocol):
    """What holds copies: files are written under new names, listed, read and deleted.

    All raise KeepingError where the place is gone, full or refuses.
    """

    def check(self, output: Path) -> None:
        """Raise KeepingError where this is no place for copies of ``output``."""

    def check_private(self) -> None:
        """Raise KeepingError where strangers can read what is kept here, and must not."""

    def check_seen(self, exists: bool) -> None:
        """Raise KeepingError where nothing is seen here though something may be kept."""

    def note(self, output: Path) -> str:
        """What ought to be known of the place; empty if nothing."""

    def sizes(self) -> Sizes | None:
        """Bytes of the files here by name; None where the place is not made yet."""

    def others(self, sizes: Sizes) -> list[str]:
        """What lies in a place without copies: some of it may be the user's own."""

    def fetch(self, names: Sequence[str]) -> Path:
        """A folder in which the files ``names`` can be read."""

    def write(self, files: Mapping[str, Path]) -> None:
        """Copy files here, by their new names."""

    def remove(self, names: Sequence[str]) -> None:
        """Delete files; what cannot be deleted stays."""


@dataclass(frozen=True)
class Found:
    """What is at a place.

    Attributes:
        exists: Whether the place is made.
        sizes: Bytes of the files there by name.
        copies: Those whose lists are whole, the newest first.
        damaged: Names of lists that are not.
    """

    exists: bool
    sizes: Sizes
    copies: list[Copy]
    damaged: list[str]


@dataclass(frozen=True)
class Kept:
    """What was kept, or brought back.

    Attributes:
        what: ``"keep"`` or ``"restore"``.
        where: The place.
        files: Name in the output folder -> bytes.
        copied: Bytes that this call copied; the others were there already.
        note: What ought to be known of the place.
    """

    what: str
    where: str
    files: dict[str, int] = field(repr=False)
    copied: int = 0
    note: str = ""

    def __str__(self) -> str:
        if not self.files:
            return f"{self.what}: nothing is kept in {self.where} yet"
        size = f"{len(self.files)} files, {_mb(sum(self.files.values()))}"
        verb = "are kept in" if self.what == "keep" else "are back from"
        note = f" ({self.note})" if self.note else ""
        return f"{self.what}: {size}, {verb} {self.where}; {_mb(self.copied)} copied now{note}"

    def _repr_html_(self) -> str:
        from storyboard import show

        rows = [[name, f"{size / 1000:,.1f}"] for name, size in self.files.items()]
        return show.table(str(self), ["file", "KB"], rows)


def of(settings: Settings, where: Path | str | None = None, private: bool = True) -> Place:
    """The place ``where``, or that of the settings.

    Raises:
        SettingsError: There is none, or it is neither a folder nor a repository.
    """
    if where is not None:
        settings = settings.but(keep_in=where)
    if settings.keep_in is None:
        raise SettingsError(
            "keep_in=None names no place: set it, or give one after the settings, such as "
            '"/content/drive/MyDrive/story" or "modelscope:me/my-story".'
        )
    place = places.parse(settings.keep_in)
    return Folder(place) if isinstance(place, Path) else Repository(place, private)


def look(place: Place) -> Found:
    """What is at ``place``."""
    sizes = place.sizes()
    names = copies.lists(sizes or {})
    if not sizes or not names:
        return Found(sizes is not None, sizes or {}, [], [])
    folder = place.fetch(names)
    read = {name: copies.read(folder / name) for name in names}
    whole = [copy for copy in read.values() if copy]
    return Found(True, sizes, whole, [name for name, copy in read.items() if not copy])


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
