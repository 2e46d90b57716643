"""What a stage writes: a folder that is either whole or absent, and says what it was made from.

Every stage writes ``manifest.json`` with a *fingerprint*: the hash of the inputs it read, the
settings it used and the package versions that matter. A stage whose fingerprint is already on disk
has nothing to do.
"""

import errno
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

MANIFEST = "manifest.json"
RELEASE = 8  # in every fingerprint: raise it when a stage gives another result for equal inputs
STALE = 6 * 3600  # seconds after which a temporary folder belongs to a run that was killed


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
    """Write a whole file or none: a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """UTF-8 JSON that a person can read, written atomically."""
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_manifest(folder: Path, stage: str, fingerprint: str, **facts: object) -> dict:
    """Write ``fingerprint``, any further ``facts``, and every file of ``folder`` with its size."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {
        "stage": stage,
        "fingerprint": fingerprint,
        "release": RELEASE,
        **facts,
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict | None:
    """The manifest of ``folder``, or None where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:  # neither UTF-8 nor JSON: edited by hand, the stage is done again
        return None
    whole = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)
    return manifest if whole else None


def finished(folder: Path, fingerprint: str) -> dict | None:
    """The manifest, if ``folder`` was made with ``fingerprint`` and all its files are whole.

    A file is whole if its size is the manifest's. A folder of another fingerprint that an earlier
    release made is named in a printed line.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest.get("fingerprint") != fingerprint:
        if manifest.get("release") != RELEASE:
            print(f"{manifest.get('stage')}: {folder} is of an earlier release, it is made anew")
        return None
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return manifest


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; without an error in between it then replaces ``folder``.

    The old folder stays untouched until the new one is whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - abandoned.stat().st_mtime > STALE:
            shutil.rmtree(abandoned, ignore_errors=True)

    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary

        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def free_space_needed(folder: Path, needed: int) -> int | None:
    """Bytes that the disk of ``folder`` lacks for ``needed`` bytes, or None if they fit."""
    free = free_space(folder)
    return needed - free if free < needed else None


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of ``folder``, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def disk_of(folder: Path) -> int:
    """Device number of the disk of ``folder``, which need not exist yet."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())


def disk_is_full(error: BaseException) -> bool:
    """Whether ``error``, or one that it was raised from, says that a disk or a quota is full."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        current = current.__cause__ or current.__context__
    return False
