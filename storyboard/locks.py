"""One run at a time in a folder, and what a run that was killed left there is cleared away.

While a run works in a folder there is ``.storyboard`` in it: the lock, who holds it, and what is
not whole yet. A lock ends with its process, however that ends.
"""

import errno
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

STATE = ".storyboard"  # of a folder that is worked in
POLL = 0.2  # seconds between looks at a lock that another run holds
_held: dict[Path, int] = {}  # folders that this process works in -> the thread that does


@contextmanager
def hold(folder: Path, what: str) -> Iterator[None]:
    """Work in ``folder`` alone; waits, and says for whom, while another run works there.

    The folder is made if need be. Where it cannot be written there is no lock: nothing can be
    damaged there, and what only reads goes on.

    Args:
        what: The stage, for the sentence that another run prints while it waits.
    """
    folder = folder.resolve()
    if _held.get(folder) == threading.get_ident():
        yield
        return

    is_new, lock = not folder.exists(), None
    try:
        lock = _acquired(folder, what)
        _held[folder] = threading.get_ident()
        if lock:
            _clear(folder)
            _write_holder(folder, what)
        yield
    finally:
        _held.pop(folder, None)
        if lock:
            _remove_state(folder)
            if is_new:
                with suppress(OSError):  # something was written there
                    folder.rmdir()
            lock.release()


@contextmanager
def lent(folder: Path) -> Iterator[None]:
    """Work in ``folder`` for another process, which holds it until this one is done."""
    folder = folder.resolve()
    _held[folder] = threading.get_ident()
    try:
        yield
    finally:
        _held.pop(folder, None)


def hold_around(path: Path) -> AbstractContextManager[None]:
    """Hold the folder of ``path``, unless this process holds one around it on the same disk."""
    return nullcontext() if _state(path) else hold(path.parent, path.name)


def scratch(path: Path) -> Path:
    """A new path for what becomes ``path`` when it is whole: on its disk, in the held folder.

    What is left there is cleared away when the folder is held the next time.
    """
    state = _state(path)
    assert state is not None
    temporary = state / "unfinished"
    temporary.mkdir(parents=True, exist_ok=True)
    return temporary / f"{path.name[:60]}.{uuid.uuid4().hex[:8]}"


def temporary_files() -> Path | None:
    """Where temporary files of this thread's run go, to be cleared away; None outside of one."""
    mine = [folder for folder, thread in _held.items() if thread == threading.get_ident()]
    if not mine:
        return None
    place = mine[-1] / STATE / "unfinished"
    place.mkdir(parents=True, exist_ok=True)
    return place


def set_aside(path: Path) -> Path:
    """Move what is at ``path`` aside, below a folder that is held; returns where it is.

    A run that is killed before it moves something else to ``path`` leaves it there: it is moved
    back when the folder is held the next time.
    """
    state = _state(path)
    assert state is not None
    aside = state / "replaced" / quote(str(path.resolve().relative_to(state.parent)), safe="")
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.replace(aside)
    return aside


def _state(path: Path) -> Path | None:
    """The state of the held folder around ``path``, if both are on one disk."""
    resolved = path.resolve()
    for folder in resolved.parents:
        if folder in _held:
            parent = next(each for each in resolved.parents if each.exists())
            elsewhere = parent.is_relative_to(folder) and _disk(parent) != _disk(folder)
            return None if elsewhere else folder / STATE
    return None


def _disk(folder: Path) -> int:
    return folder.stat().st_dev


def _acquired(folder: Path, what: str) -> FileLock | None:
    """The lock, held; None where the folder cannot be written."""
    state = folder / STATE
    lock = FileLock(state / "lock", is_singleton=True)
    told = False
    while True:
        try:
            state.mkdir(parents=True, exist_ok=True)
            if state.is_symlink():
                raise FileExistsError(errno.EEXIST, "a link", str(state))
            lock.acquire(blocking=False)
            return lock
        except FileNotFoundError:  # the run before has just removed the folder
            continue
        except Timeout:
            if not told:
                print(f"{what}: waiting for {_holder(folder)}", flush=True)
                told = True
            time.sleep(POLL)
        except OSError:  # what is written there later says what is wrong with it
            return None


def _write_holder(folder: Path, what: str) -> None:
    holder = {
        "what": what,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with suppress(OSError):  # on a full disk others learn only that somebody is there
        (folder / STATE / "holder.json").write_text(json.dumps(holder), encoding="utf-8")


def _holder(folder: Path) -> str:
    """Who holds the lock, for a sentence."""
    try:
        holder = json.loads((folder / STATE / "holder.json").read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} ({holder['what']})"
        return f"{who}, which works in {folder} since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return f"another run, which works in {folder}"


def _clear(folder: Path) -> None:
    """Put away what a run that was killed left; for whoever holds the lock."""
    state = folder / STATE
    for aside in sorted((state / "replaced").glob("*")):
        place = folder / unquote(aside.name)
        inside = place.resolve().is_relative_to(folder)
        if inside and not os.path.lexists(place) and place.parent.is_dir():
            aside.replace(place)
    for name in ("replaced", "unfinished"):
        shutil.rmtree(state / name, ignore_errors=True)


def _remove_state(folder: Path) -> None:
    """Leave nothing behind; the lock is still held, and whoever opened its file tries again."""
    _clear(folder)
    state = folder / STATE
    with suppress(OSError):
        (state / "holder.json").unlink(missing_ok=True)
        (state / "lock").unlink(missing_ok=True)
        state.rmdir()
