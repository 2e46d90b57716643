"""Keep what a run made, where a host wipes its disk."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from storyboard import artifacts, locks, stages
from storyboard.errors import KeepingError
from storyboard.keeping import contents, copies, place
from storyboard.keeping.contents import Origin
from storyboard.keeping.copies import Copy, Sizes, StoredFile
from storyboard.keeping.place import Found, Kept, Place
from storyboard.settings import Settings


@stages.stage("keep")
def keep(settings: Settings, where: Path | str | None = None, private: bool = True) -> Kept:
    """Copy what is worth keeping of the output folder to a place that the host does not wipe.

    Settings, recipe, captions and ``edits.csv``; the LoRA, its checkpoints and previews; the state
    of a training that is not finished; the story, the same panels by the base, and scores. Only
    what changed is copied. A copy that is interrupted leaves the one before.

    Args:
        where: A mounted folder, for copies alone, ``"modelscope:owner/name"`` or
            ``"huggingface:owner/name"``; None is ``settings.keep_in``.
        private: A repository is made private, and a public one refused.

    Raises:
        SettingsError: No place is named, or one of another form.
        KeepingError: The place is gone, full or public, or holds something else; the copy before
            stays.
    """
    kept = copy_to(place.of(settings, where, private), settings)
    print(kept, flush=True)
    return kept


def copy_to(target: Place, settings: Settings) -> Kept:
    """What ``keep`` does, in a folder that is held, without a word."""
    target.check(settings.folder)
    target.check_private()
    found = place.look(target)
    check_ours(target, found, settings.folder)

    contents.write_notes(settings)
    copy, new = _next(settings.folder, found)
    if new or not found.copies or copy.files.keys() != found.copies[0].files.keys():
        _write(target, copy, new, settings.folder, found)
        target.remove(_stale([copy, *found.copies], found.sizes))

    sizes = {name: file.size for name, file in copy.files.items()}
    copied = sum(path.stat().st_size for path in new.values())
    return Kept("keep", str(target), sizes, copied, target.note(settings.folder))


def check_ours(target: Place, found: Found, output: Path) -> None:
    """Raise KeepingError where the copies at a place are not of ``output``, or are no copies."""
    origin = contents.origin_of(output)
    for copy in found.copies[:1]:
        if not origin.has(copy.run, copy.number):
            raise KeepingError(
                f"{target} holds a copy of {copy.made} that was not made of {output}: run "
                "restore(settings) first to go on from it, or name another place."
            )
    for name in found.damaged:
        if copies.number_of(name) > origin.copy:
            raise KeepingError(
                f"{target} holds a copy that was not made of {output}, and its list {name} is cut "
                "off or changed: wait until a cloud drive has brought it, or name another place."
            )
    if found.copies or not found.exists or _is_marked(target, found):
        return
    if others := target.others(found.sizes):
        raise KeepingError(
            f"{target} holds other files, such as {others[0]}: name a new folder or repository, "
            "for copies alone."
        )


def _is_marked(target: Place, found: Found) -> bool:
    """Whether a first copy was begun there, before which nothing else was there."""
    if copies.README not in found.sizes:
        return False
    try:
        about = (target.fetch([copies.README]) / copies.README).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return about.splitlines()[:1] == copies.ABOUT.splitlines()[:1]


def _next(output: Path, found: Found) -> tuple[Copy, dict[str, Path]]:
    """The copy of ``output``, and what has to be written for it, by the names there."""
    origin = contents.origin_of(output)
    before = found.copies[0].files if found.copies else {}
    number = max([origin.copy, *map(copies.number_of, copies.lists(found.sizes))]) + 1
    tag = copies.new_tag(origin.run)
    files, new = {}, {}
    for name, path in contents.files(output).items():
        size, digest = path.stat().st_size, artifacts.digest_of_file(path)
        file = before.get(name)
        if not file or file.digest != digest or not copies.is_there(file, found.sizes):
            file = StoredFile(at=copies.stored_name(name, number, tag), size=size, digest=digest)
            new[file.at] = path
        files[name] = file
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Copy(number=number, tag=tag, run=origin.run, made=made, files=files), new


def _write(target: Place, copy: Copy, new: Mapping[str, Path], output: Path, found: Found) -> None:
    """The files, then the list, by which the copy is there.

    Raises:
        KeepingError: Another run was kept there since it was ``found``; its copy stays.
    """
    with tempfile.TemporaryDirectory(dir=locks.temporary_files()) as folder:
        if not found.copies:
            about = Path(folder) / copies.README
            about.write_text(copies.ABOUT, encoding="utf-8", newline="\n")
            target.write({copies.README: about})
        if new:
            target.write(new)
        _check_alone(target, copy, output, found)
        listed = Path(folder) / copy.list_name
        listed.write_text(copy.to_json(), encoding="utf-8", newline="\n")
        # noted before: a list that is there without the note would look like another machine's
        contents.write_origin(output, Origin(copy.run, copy.number))
        target.write({listed.name: listed})


def _check_alone(target: Place, copy: Copy, output: Path, found: Found) -> None:
    """Raise KeepingError where another run has finished a copy since ``found``."""
    if found.sizes.keys() >= set(copies.lists(target.sizes() or {})):
        return
    try:
        check_ours(target, place.look(target), output)
    except KeepingError:
        before = {file.at for each in found.copies for file in each.files.values()}
        target.remove([file.at for file in copy.files.values() if file.at not in before])
        raise


def _stale(whole: list[Copy], sizes: Sizes) -> list[str]:
    """Of this run, lists and files of copies that are no longer kept, or were never finished."""
    kept = whole[: copies.KEPT_COPIES]
    used = {file.at for copy in kept for file in copy.files.values()}
    used |= {copy.list_name for copy in kept}
    return sorted({name for name in sizes if copies.is_of(name, whole[0].run)} - used)
