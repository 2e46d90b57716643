"""Bring a kept copy back into an output folder, from which a run then goes on."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from storyboard import artifacts, disks, locks, stages
from storyboard.errors import KeepingError, ResourceError
from storyboard.keeping import contents, copies, place
from storyboard.keeping.contents import Origin
from storyboard.keeping.copies import Copy, Sizes, StoredFile
from storyboard.keeping.folder import CHUNK, reading
from storyboard.keeping.place import Found, Kept, Place
from storyboard.settings import Settings


class DamagedCopy(Exception):
    """A kept copy does not hold what was kept; says what."""


@stages.stage("restore")
def restore(settings: Settings, where: Path | str | None = None) -> Kept:
    """Bring what ``keep`` copied back into the output folder, whole or not at all.

    What is there already stays, and what was made or deleted there since is not mixed with older
    files. Stages then find their results, and training goes on from its last kept checkpoint to
    the same LoRA. Where nothing has been kept yet a line says so. Of two copies the newer is taken,
    unless it is damaged, which is said.

    Args:
        where: As of ``keep``.

    Raises:
        SettingsError: No place is named, or one of another form.
        KeepingError: The place is gone, no copy is whole, or a file here is another than the kept
            one, and was not made from it; nothing was changed.
        ResourceError: The disk of the output folder is too small.
    """
    source = place.of(settings, where)
    source.check(settings.folder)
    found = place.look(source)
    if not found.copies and not found.damaged:
        source.check_seen(found.exists)
        kept = Kept("restore", str(source), {})
    else:
        kept = _newest(source, found, settings.folder)
    print(kept, flush=True)
    if kept.files and (others := contents.other_settings(settings)):
        print(f"restore: kept with other settings: {', '.join(others)}", flush=True)
    return kept


def _newest(source: Place, found: Found, output: Path) -> Kept:
    """The newest copy that is whole, brought back."""
    damages = [f"{name} is cut off or changed" for name in found.damaged]
    for copy in found.copies:
        try:
            kept = _bring_back(source, copy, found.sizes, output)
        except DamagedCopy as error:
            damages.append(str(error))
            continue
        if damages:
            print(
                f"restore: a newer copy is not whole ({damages[-1]}), that of {copy.made} is taken",
                flush=True,
            )
        _note_origin(output, copy.run, copies.number_of(copies.lists(found.sizes)[0]))
        return kept
    raise KeepingError(
        f"No copy in {source} is whole ({'; '.join(damages)}): wait until a cloud drive has "
        "brought all files, or train again with another keep_in."
    )


def _bring_back(source: Place, copy: Copy, sizes: Sizes, output: Path) -> Kept:
    """Bring back what is not here.

    Raises:
        DamagedCopy: A file is missing, cut off or changed; nothing was changed here.
        KeepingError: A file here is another than the kept one.
        ResourceError: The disk is too small.
    """
    if missing := copy.missing(sizes):
        raise DamagedCopy(f"{missing} is missing or cut off")
    here = _compared(copy, output)
    wanted = here.wanted
    needed = sum(file.size for file in wanted.values())
    if wanted:
        _check_room(wanted, output)
        size = f"{len(wanted)} files, {needed / 1e6:.1f} MB"
        print(f"restore: copying {size} from {source}", flush=True)
        _copy_all(source.fetch([file.at for file in wanted.values()]), wanted, output)
    files = {name: file.size for name, file in copy.files.items() if name not in here.gone}
    return Kept("restore", str(source), files, needed, here.note)


@dataclass(frozen=True)
class Compared:
    """A copy, and what of it is in an output folder.

    Attributes:
        wanted: What is not here, and comes back.
        later: Names of what was changed here since it was kept.
        gone: Names of what is not here, and stays away: older than what is here, or deleted.
    """

    wanted: dict[str, StoredFile]
    later: list[str]
    gone: list[str]

    @property
    def note(self) -> str:
        """For the reader; empty if all came back."""
        told = []
        if self.later:
            told.append(f"{len(self.later)} files here are later and stay, such as {self.later[0]}")
        if self.gone:
            which = f"{len(self.gone)}, such as {self.gone[0]}"
            told.append(f"older than that, or deleted here: {which}")
        return "; ".join(told)


def _compared(copy: Copy, output: Path) -> Compared:
    """What ``output`` has of ``copy``.

    Raises:
        KeepingError: A file here is another than the kept one, and not a later one.
    """
    is_later = contents.origin_of(output).has(copy.run, copy.number)
    absent, other = [], []
    for name, file in copy.files.items():
        path = output / name
        if not (path.exists() or path.is_symlink()):
            absent.append(name)
        elif not (path.is_file() and _is_as_kept(path, file)):
            other.append(name)

    if not is_later:
        if foreign := [name for name in other if not contents.is_note(name)]:
            raise KeepingError(
                f"{output / foreign[0]} is not the file that was kept ({copy.made}): move it away, "
                "or set output to another folder, or go on without restore() if this is the one "
                "you want."
            )
        return Compared({name: copy.files[name] for name in (*absent, *other)}, [], [])

    made_since = {contents.EDITS, *map(contents.whole_of, other)}
    gone = [name for name in absent if contents.whole_of(name) in made_since]
    wanted = {name: copy.files[name] for name in absent if name not in gone}
    return Compared(wanted, other, gone)


def _check_room(wanted: Mapping[str, StoredFile], output: Path) -> None:
    """Raise ResourceError where a disk is too small: a folder in ``output`` may be on another."""
    on_disk: dict[int, list[str]] = {}
    for name in wanted:
        on_disk.setdefault(artifacts.disk_of(output / name), []).append(name)
    for names in on_disk.values():
        folder = (output / names[0]).parent
        needed = sum(wanted[name].size for name in names)
        if lacking := artifacts.free_space_needed(folder, needed):
            raise ResourceError(
                f"The disk of {folder} lacks {lacking / 1e6:,.0f} MB for what was kept: free some "
                "space or set output to another disk."
            )


def _copy_all(stored: Path, wanted: Mapping[str, StoredFile], output: Path) -> None:
    """Copy what is ``wanted`` from the folder ``stored`` into ``output``, all of it or nothing.

    Raises:
        DamagedCopy: A file is missing, cut off or changed.
        UnreachableError: One cannot be read.
        ResourceError: A disk refuses.
    """
    with ExitStack() as stack:
        scratch = {}
        # a folder before those in it, which need no lock of their own then
        for name in sorted(wanted, key=lambda name: name.count("/")):
            with disks.writing(output / name):
                stack.enter_context(locks.hold_around(output / name))
                scratch[name] = locks.scratch(output / name)
            stack.callback(scratch[name].unlink, missing_ok=True)
        for name, file in wanted.items():
            _copy(stored / file.at, scratch[name], file)
        # all are whole: from here on nothing can fail but the disk
        for name in sorted(wanted, key=_order):
            target = output / name
            with disks.writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                scratch[name].replace(target)


def _note_origin(output: Path, run: str, number: int) -> None:
    """What is made here from now on comes after copy ``number``."""
    before = contents.origin_of(output)
    if before.run == run:
        number = max(number, before.copy)
    contents.write_origin(output, Origin(run, number))


def _is_as_kept(path: Path, file: StoredFile) -> bool:
    return path.stat().st_size == file.size and artifacts.digest_of_file(path) == file.digest


def _copy(source: Path, target: Path, file: StoredFile) -> None:
    with disks.writing(target), target.open("wb") as writing:
        for chunk in _chunks(source, file):
            writing.write(chunk)
    if not _is_as_kept(target, file):
        raise DamagedCopy(f"{file.at} is cut off or changed")


def _chunks(source: Path, file: StoredFile) -> Iterator[bytes]:
    """The bytes at the place, whose faults are not those of the disk here."""
    with reading(source):
        try:
            with source.open("rb") as stored:
                while chunk := stored.read(CHUNK):
                    yield chunk
        except FileNotFoundError as error:
            raise DamagedCopy(f"{file.at} is missing") from error


def _order(name: str) -> tuple[bool, str]:
    """Manifests first: by them a stage knows files of an unfinished folder for its own."""
    return not name.endswith("manifest.json"), name
