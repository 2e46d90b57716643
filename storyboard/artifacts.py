"""What a stage writes: a folder that is either whole or absent, and says what it was made from.

Every stage writes ``manifest.json`` with a *fingerprint*: the hash of the inputs it read, the
settings it used and the package versions that matter. A stage whose fingerprint is already on disk
has nothing to do. The manifest names the files of the folder with their sizes and digests: what is
damaged is made anew, and nothing is ever replaced or deleted that no manifest names.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from storyboard import disks, locks
from storyboard.errors import SettingsError
from storyboard.seals import is_sealed, sealed

MANIFEST = "manifest.json"
COPY = ".manifest.json"  # of the manifest: where that is damaged it tells whose the files are
RELEASE = 11  # in every fingerprint: raise it when a stage gives another result for equal inputs
DIGESTED = 4 * 10**9  # bytes of a folder that are read to find damage, small files first


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(**inputs: object) -> str:
    """SHA-256 over the canonical JSON of ``inputs``, the same in every process."""
    canonical = json.dumps(
        inputs | {"release": RELEASE},
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
        default=str,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, for a fingerprint; importing nothing."""
    return {package: version(package) for package in packages}


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or none: a reader never sees half of it.

    Raises:
        ResourceError: The disk is full or refuses it.
    """
    with disks.writing(path), locks.hold_around(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = locks.scratch(path)
        try:
            temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """UTF-8 JSON that a person can read, written atomically."""
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_manifest(
    folder: Path,
    stage: str,
    fingerprint: str,
    names: Iterable[str] | None = None,
    **facts: object,
) -> dict:
    """Write ``fingerprint``, any further ``facts``, and files with their sizes and digests.

    Args:
        names: Of the files, relative to ``folder``; None takes all that are in there.
    """
    if names is None:
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    found = sorted(set(names) - {MANIFEST, COPY})
    files = {name: (folder / name).stat().st_size for name in found if (folder / name).is_file()}
    manifest = sealed(
        {
            "stage": stage,
            "fingerprint": fingerprint,
            "release": RELEASE,
            **facts,
            "files": files,
            "digests": {name: digest_of_file(folder / name) for name in _digested(files)},
        }
    )
    write_json(folder / COPY, manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def _digested(files: dict[str, int]) -> list[str]:
    """Names of the smallest of ``files`` (name -> size) that come to DIGESTED bytes."""
    names, total = [], 0
    for name in sorted(files, key=lambda name: (files[name], name)):
        total += files[name]
        if total > DIGESTED:
            break
        names.append(name)
    return sorted(names)


def read_manifest(folder: Path) -> dict | None:
    """The manifest of ``folder``, or None where there is none or it is damaged."""
    return _manifest(folder / MANIFEST)


def _manifest(path: Path) -> dict | None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing, neither UTF-8 nor JSON, too deep
        return None
    whole = is_sealed(manifest) and all(
        isinstance(manifest.get(name), kind)
        for name, kind in (("stage", str), ("fingerprint", str), ("files", dict))
    )
    return manifest if whole and all(map(_is_inside, manifest["files"])) else None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def finished(folder: Path, fingerprint: str) -> dict | None:
    """The manifest, if ``folder`` was made with ``fingerprint`` and all its files are whole.

    A file is whole if its size and its digest are the manifest's. A folder that is damaged, or of
    another fingerprint that an earlier release made, is named in a printed line.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        if (folder / MANIFEST).exists() or (folder / COPY).exists():
            print(f"{folder / MANIFEST} is damaged, {folder} is made anew", flush=True)
        return None
    if manifest["fingerprint"] != fingerprint:
        if manifest.get("release") != RELEASE:
            print(f"{manifest['stage']}: {folder} is of an earlier release, it is made anew")
        return None
    for name in _changed(folder, manifest):
        what = "is damaged" if (folder / name).exists() else "is missing"
        print(f"{manifest['stage']}: {folder / name} {what}, {folder} is made anew", flush=True)
        return None
    return manifest


def _changed(folder: Path, manifest: dict) -> Iterator[str]:
    """Names of files that are not as the manifest has them."""
    if "checksum" in manifest and _manifest(folder / COPY) != manifest:
        yield COPY
    for name in sorted(manifest["files"], key=manifest["files"].__getitem__):  # small ones first
        if not is_whole(folder, name, manifest):
            yield name


def is_whole(folder: Path, name: str, manifest: dict) -> bool:
    """Whether the file ``name`` of ``folder`` is as its manifest has it."""
    path, size = folder / name, manifest.get("files", {}).get(name)
    if not path.is_file() or size not in (None, path.stat().st_size):
        return False
    digest = manifest.get("digests", {}).get(name)
    return digest is None or digest == digest_of_file(path)


def named(folder: Path) -> set[str]:
    """Names of the files of ``folder`` that are ours: those in a manifest, or in its copy."""
    manifests = [_manifest(folder / name) for name in (MANIFEST, COPY)]
    names = {MANIFEST, COPY} if any(manifests) else set()
    for manifest in filter(None, manifests):
        names |= {*manifest["files"], *manifest.get("planned", [])}
    return names


def check_ours(folder: Path) -> None:
    """Raise SettingsError where something else than a folder of ours is at ``folder``."""
    if folder.is_dir() and (not any(folder.iterdir()) or named(folder)):
        return
    if folder.exists() or folder.is_symlink():
        raise SettingsError(
            f"{folder} is not a folder that Storyboard made, it has no whole {MANIFEST}: move it "
            "away or set output to another folder."
        )


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Raise SettingsError where one of ``names`` in ``folder`` would replace what is not ours."""
    ours = named(folder)
    for name in (MANIFEST, COPY, *names):
        path = folder / name
        if path.is_dir() or (name not in ours and (path.exists() or path.is_symlink())):
            raise SettingsError(
                f"{path} is not a file that Storyboard made: move it away or set output to another "
                "folder."
            )


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; without an error in between it then replaces ``folder``.

    The old folder stays untouched until the new one is whole. Files in it that its manifest does
    not name are moved into the new one.

    Raises:
        SettingsError: What is at ``folder`` is not ours.
        ResourceError: The disk is full or refuses it.
    """
    folder = folder.resolve()  # a link to a folder on another disk stays one
    with disks.working_in(folder.parent), locks.hold_around(folder):
        check_ours(folder)
        with disks.writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = locks.scratch(folder)
            temporary.mkdir()
        try:
            yield temporary

            with disks.writing(folder):
                _keep_others(folder, temporary)
                old = locks.set_aside(folder) if folder.exists() else None
                temporary.replace(folder)
                if old:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _keep_others(folder: Path, new: Path) -> None:
    """Move the files of ``folder`` that no manifest names to ``new``.

    Raises:
        SettingsError: A file of ours has the same name; nothing was moved.
    """
    if not folder.is_dir():
        return
    ours = named(folder)
    others = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir())
        and path.relative_to(folder).as_posix() not in ours
    ]
    check_free(folder, [name.as_posix() for name in others if (new / name).exists()])
    for name in others:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(new / name)


def free_space_needed(folder: Path, needed: int) -> int | None:
    """Bytes that the disk of ``folder`` lacks for ``needed`` bytes, or None if they fit.

    Rounded up to whole MB, in which it is told.
    """
    free = free_space(folder)
    return -(-(needed - free) // 10**6) * 10**6 if free < needed else None


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of ``folder``, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def disk_of(folder: Path) -> int:
    """Device number of the disk of ``folder``, which need not exist yet."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
