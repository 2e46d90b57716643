"""Which files lie in a folder, and which of them are never opened: links out, pipes, devices."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storyboard import artifacts, images

# repeats and concept: https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md
KOHYA_FOLDER = re.compile(r"(\d+)_(.+)", re.DOTALL)
# folders beside kohya's folder of pictures: https://github.com/bmaltais/kohya_ss
KOHYA_PICTURES = {"img", "image", "images"}
KOHYA_OTHERS = {
    **dict.fromkeys(("reg", "regs", "regularization", "regularisation"), "for regularisation"),
    **dict.fromkeys(("model", "models", "output", "sample", "samples"), "a sample of a training"),
    **dict.fromkeys(("log", "logs"), "part of a log"),
}
ODD_SIGNS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class File:
    """A regular file.

    Attributes:
        name: Path in the folder, with ``/``; bytes that are not UTF-8 as ``os.fsdecode`` has them.
        path: Where it is.
        size: In bytes.
        changed: Time of change, in nanoseconds.
    """

    name: str
    path: Path
    size: int
    changed: int


@dataclass
class Tree:
    """What a folder holds.

    Attributes:
        root: The folder, without links in its path.
        files: By name, in the order of their paths' parts; those called ``.something`` too, but
            none in folders called so.
        left_out: Why an entry is not among them, by name.
    """

    root: Path
    files: dict[str, File] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def scan(folder: Path, output: Path | None = None) -> Tree:
    """The files of ``folder``; what this package wrote into ``output`` is passed over."""
    tree = Tree(folder.resolve())
    output = output.resolve() if output else None
    found = []
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        try:
            entries = list(os.scandir(tree.root / parent))
        except OSError as error:
            tree.left_out[parent or "."] = f"cannot be opened ({error.strerror})"
            continue
        for entry in entries:
            name = f"{parent}/{entry.name}" if parent else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and not _is_ours(Path(entry.path), output):
                    waiting.append(name)
                    if images.is_named_as_picture(Path(name)):
                        tree.left_out[name] = "is a folder, whose files are looked at"
            elif reason := _refusal(entry, tree.root):
                tree.left_out[name] = reason
            else:
                found.append(name)

    for name in sorted(found, key=lambda name: name.split("/")):
        _add(tree, name)
    _leave_out_kohyas_others(tree)
    tree.left_out = dict(sorted(tree.left_out.items()))
    return tree


def shown(name: str) -> str:
    """``name`` for people: what is no text, such as bytes that are not UTF-8, as ``�``."""
    return ODD_SIGNS.sub("\ufffd", name)


def is_hidden(name: str) -> bool:
    """Whether the file is one that systems do not show."""
    return PurePosixPath(name).name.startswith(".")


def _is_ours(folder: Path, output: Path | None) -> bool:
    """Whether a run wrote ``folder``: below ``output``, or a stage's own where both are one."""
    if output is None:
        return False
    if folder == output:
        return True
    return folder.is_relative_to(output) and artifacts.read_manifest(folder) is not None


def _refusal(entry: os.DirEntry, root: Path) -> str | None:
    """Why ``entry``, which is no folder, is not opened; None where it is a file."""
    try:
        if entry.is_symlink():
            target = Path(entry.path).resolve(strict=True)
            if not target.is_relative_to(root):
                return "is a link out of the folder: copy the file there"
            if target.is_dir():
                return "is a link to a folder, which is not followed: copy the folder there"
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing"
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    return None if stat.S_ISREG(mode) else "is no regular file"


def _add(tree: Tree, name: str) -> None:
    path = tree.root / name
    try:
        status = path.stat()
    except OSError as error:
        tree.left_out[name] = f"cannot be opened ({error.strerror})"
        return
    tree.files[name] = File(name, path, status.st_size, status.st_mtime_ns)


def _leave_out_kohyas_others(tree: Tree) -> None:
    """Take regularisation pictures, samples and logs of a project of kohya's out of ``tree``."""
    folders = {tuple(name.split("/")[:-1]) for name in tree.files}
    projects = {project for parts in folders for project in _kohyas_projects(parts)}
    for name in list(tree.files) if projects else ():
        *parts, _ = name.split("/")
        for depth, part in enumerate(parts):
            what = KOHYA_OTHERS.get(part.casefold())
            if what and tuple(parts[:depth]) in projects:
                tree.left_out[name] = f"is {what} in a project of kohya's"
                del tree.files[name]
                break


def _kohyas_projects(folder: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The folders in which a project of kohya's lies, if ``folder`` belongs to its pictures."""
    for depth, part in enumerate(folder):
        if KOHYA_FOLDER.fullmatch(part):
            yield folder[:depth]
            if depth and folder[depth - 1].casefold() in KOHYA_PICTURES:
                yield folder[: depth - 1]
