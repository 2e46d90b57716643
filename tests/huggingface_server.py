"""Hugging Face's hub over HTTP: serves a local folder laid out as <owner>/<name>[@revision] the way its API for models does."""

import hashlib
import http.server
import json
import threading
import urllib.parse
from pathlib import Path


class HuggingFace:
    """Serves ``root``; ``asked`` holds (method, path) of every request, ``sized`` whether the listing has sizes."""

    def __init__(self, root: Path, sized: bool = True) -> None:
        self.root, self.asked, self.sized = root, [], sized
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                parts = urllib.parse.urlparse(self.path).path.strip("/").split("/")
                parts = [urllib.parse.unquote(part) for part in parts]
                hub.asked.append((self.command, urllib.parse.unquote(self.path)))
                match parts:
                    case ["api", "models", owner, name, *rest] if rest[:1] in (
                        [],
                        ["revision"],
                        ["tree"],
                    ):
                        return self.listing(
                            hub.folder(owner, name, rest[1] if rest else "main"),
                            rest[:1] == ["tree"],
                        )
                    case [owner, name, "resolve", revision, *path]:
                        folder = hub.folder(owner, name, revision)
                        return self.file(folder.joinpath(*path), hub.commit(folder))
                self.answer(404, b"{}")

            do_HEAD = do_POST = do_GET

            def listing(self, folder, tree):
                if not folder.is_dir():
                    return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                files = {
                    path.relative_to(folder).as_posix(): path.stat().st_size
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                }
                if tree:
                    found = [
                        {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                        for name, size in files.items()
                    ]
                else:
                    siblings = [
                        {"rfilename": name} | ({"size": size} if hub.sized else {})
                        for name, size in files.items()
                    ]
                    found = {
                        "id": f"{folder.parent.name}/{folder.name}",
                        "sha": hub.commit(folder),
                        "siblings": siblings,
                        "tags": [],
                        "private": False,
                    }
                self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

            def file(self, path, commit):
                if not path.is_file():
                    return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                content = path.read_bytes()
                self.answer(
                    200,
                    content,
                    {
                        "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                        "X-Repo-Commit": commit,
                        "Accept-Ranges": "bytes",
                    },
                )

            def answer(self, status, content, headers=()):
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def folder(self, owner: str, name: str, revision: str) -> Path:
        """Of a repository at a revision or commit; those other than ``main`` lie beside it, slashes as dashes."""
        revisions = {self.commit(path): path for path in (self.root / owner).glob(f"{name}*")}
        named = name if revision == "main" else f"{name}@{revision.replace('/', '-')}"
        return revisions.get(revision, self.root / owner / named)

    def commit(self, folder: Path) -> str:
        return hashlib.sha1(folder.name.encode()).hexdigest()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
