"""Which file of a folder a row of a listing means, however the path was written."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storyboard import images
from storyboard.data.beside import folded
from storyboard.data.text_files import Refusal
from storyboard.data.tree import File, Tree, shown

OUTSIDE = "lies outside the folder"
MISSING = "no such file"
MOVED = "is named by a path that is not in the folder, and was found by the end of it"
OTHER_SUFFIX = "is named with another suffix than the file has"
LONGEST = 4096  # characters; no system opens longer paths
DRIVE = re.compile(r"(?:file://)?(?:/?[A-Za-z]:)?")


@dataclass(frozen=True)
class Match:
    """A file that a row means, and how it was found where its path is not in the folder."""

    file: File
    note: str = ""


class Lookup:
    """The files of a tree by the paths that listings name them by."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.tree = tree
        # as a listing may name it, with links in its path or without
        self._roots = {f"{root}/" for root in (tree.root, Path.cwd() / folder)}
        self._by_folded: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in tree.files:
            self._by_folded[folded(name)].append(name)
            if images.is_named_as_picture(Path(name)):
                self._by_stem[folded(posixpath.splitext(name)[0])].append(name)

    def find(self, path: str, folder: str) -> Match:
        """The file that a listing in ``folder`` of the tree names as ``path``.

        Tried in turn: the path as it stands, with ``/`` for ``\\``, in any case, from the tree's
        root on, without a suffix, and the end of it, as listings name that were moved.

        Raises:
            Refusal: There is none in the tree, or several are meant.
        """
        path = path.strip()
        if len(path) > LONGEST:
            raise Refusal(MISSING)
        outside = False
        for written in dict.fromkeys((path, DRIVE.sub("", path.replace("\\", "/"), count=1))):
            name = self._inside(written, folder)
            if name is None:
                outside = True
                continue
            for candidate in dict.fromkeys((name, posixpath.normpath(written))):
                if file := self._file(candidate):
                    return Match(file)
                if file := self._of_stem(candidate):
                    return file
            if name in self.tree.left_out:
                raise Refusal(self.tree.left_out[name])

        for end in _ends(path.replace("\\", "/")):
            for candidate in dict.fromkeys((posixpath.join(folder, end), end)):
                if file := self._file(candidate):
                    return Match(file, MOVED)
        raise Refusal(OUTSIDE if outside else MISSING)

    def _inside(self, path: str, folder: str) -> str | None:
        """``path`` from the root of the tree on; None where it leads out."""
        if path.startswith("/"):
            path = posixpath.normpath(path)
            root = next((root for root in self._roots if path.startswith(root)), None)
            return path.removeprefix(root) if root else None
        name = posixpath.normpath(posixpath.join(folder, path))
        return None if name == ".." or name.startswith("../") else name

    def _file(self, name: str) -> File | None:
        """The file called ``name``, or the only one that differs in case alone."""
        if name in self.tree.files:
            return self.tree.files[name]
        return self._only(self._by_folded.get(folded(name), []))

    def _of_stem(self, name: str) -> Match | None:
        """The only picture that is called ``name`` and a suffix, or has another suffix than it."""
        if file := self._only(self._by_stem.get(folded(name), [])):
            return Match(file)
        stem, suffix = posixpath.splitext(name)
        if not images.is_named_as_picture(Path(f"name{suffix}")):
            return None
        file = self._only(self._by_stem.get(folded(stem), []))
        return Match(file, OTHER_SUFFIX) if file else None

    def _only(self, names: list[str]) -> File | None:
        if len(names) > 1:
            raise Refusal(f"could be {shown(names[0])} or {shown(names[1])}")
        return self.tree.files[names[0]] if names else None


def _ends(path: str) -> Iterator[str]:
    """The ends of ``path``, the longest first, without the whole."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = ["", *parts[len(parts) - parts[::-1].index("..") :]]
    elif path.startswith("/"):
        parts = ["", *parts]
    for start in range(max(1, len(parts) - 32), len(parts)):
        yield "/".join(parts[start:])
