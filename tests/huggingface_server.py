"""Hugging Face's hub over HTTP: serves a folder the way its API for models does.

The folder is laid out as <owner>/<name>[@revision].
"""

import hashlib
import json
import urllib.parse
from pathlib import Path

from tests.local_server import Handler, LocalServer


class HuggingFace(LocalServer):
    """Serves ``root``.

    Attributes:
        asked: (method, path) of every request.
        sized: Whether the listing has sizes.
        fault: Answers a request in place of the hub, if it returns True.
    """

    def __init__(self, root: Path, sized: bool = True) -> None:
        self.root, self.asked, self.sized, self.fault = root, [], sized, None
        super().__init__(_handler(self))

    def folder(self, owner: str, name: str, revision: str) -> Path:
        """Of a repository at a revision or commit.

        Those other than ``main`` lie beside it, slashes as dashes.
        """
        commits = {self.commit(path): path for path in (self.root / owner).glob(f"{name}*")}
        folder = name if revision == "main" else f"{name}@{revision.replace('/', '-')}"
        return commits.get(revision, self.root / owner / folder)

    def commit(self, folder: Path) -> str:
        return hashlib.sha1(folder.name.encode()).hexdigest()


def _handler(hub: HuggingFace) -> type[Handler]:
    class HuggingFaceHandler(Handler):
        def do_GET(self):
            path = urllib.parse.urlparse(self.path).path
            parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
            if hub.fault and hub.fault(self):
                return None
            hub.asked.append((self.command, urllib.parse.unquote(self.path)))
            match parts:
                case ["api", "models", owner, name]:
                    return self.model(hub.folder(owner, name, "main"))
                case ["api", "models", owner, name, "revision", revision]:
                    return self.model(hub.folder(owner, name, revision))
                case ["api", "models", owner, name, "tree", revision, *_]:
                    return self.tree(hub.folder(owner, name, revision))
                case [owner, name, "resolve", revision, *path]:
                    folder = hub.folder(owner, name, revision)
                    return self.file(folder.joinpath(*path), hub.commit(folder))
            return self.answer(404, b"{}")

        do_HEAD = do_POST = do_GET

        def model(self, folder):
            if not folder.is_dir():
                return self.missing()
            return self.json(_model(hub, folder))

        def tree(self, folder):
            if not folder.is_dir():
                return self.missing()
            return self.json(
                [
                    {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                    for name, size in _sizes(folder).items()
                ]
            )

        def file(self, path, commit):
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                "X-Repo-Commit": commit,
                "Accept-Ranges": "bytes",
            }
            return self.answer(200, content, headers)

        def json(self, content):
            self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def missing(self):
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    return HuggingFaceHandler


def _model(hub: HuggingFace, folder: Path) -> dict:
    """What the hub says of the model in ``folder``."""
    siblings = [
        {"rfilename": name} | ({"size": size} if hub.sized else {})
        for name, size in _sizes(folder).items()
    ]
    return {
        "id": f"{folder.parent.name}/{folder.name}",
        "sha": hub.commit(folder),
        "siblings": siblings,
        "tags": [],
        "private": False,
    }


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
