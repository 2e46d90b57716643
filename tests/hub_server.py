"""ModelScope over HTTP: serves a folder laid out as <owner>/<name> the way its API for models does.

It can break off in the middle of a file.
"""

import hashlib
import json
import socket
import urllib.parse
from pathlib import Path

from tests.local_server import Handler, LocalServer


class Hub(LocalServer):
    """Serves ``root``.

    Attributes:
        cut: Name of a file that breaks off in the middle, once, after which all is refused.
        refusing: Whether every request is answered with 404.
        ranges: (file name, range) of every request for a part of a file.
        fault: Answers a request in place of the hub, if it returns True.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.cut, self.refusing, self.ranges = root, None, False, []
        self.fault = None
        super().__init__(_handler(self))


def _handler(hub: Hub) -> type[Handler]:
    class ModelScopeHandler(Handler):
        def do_GET(self):
            if hub.fault and hub.fault(self):
                return None
            url = urllib.parse.urlparse(self.path)
            part = url.path.split("/")
            if hub.refusing or len(part) < 6 or "/api/v1/models/" not in url.path:
                return self.answer(404, b"{}")

            folder = hub.root / part[4] / part[5]
            if url.path.endswith("/repo/files"):
                data = {"Code": 200, "Success": True, "Data": {"Files": listing(folder)}}
                return self.answer(200, json.dumps(data).encode())
            return self.file(folder / urllib.parse.parse_qs(url.query)["FilePath"][0])

        do_HEAD = do_POST = do_GET

        def file(self, path):
            content, begin, status, headers = path.read_bytes(), 0, 200, {}
            if part := self.headers.get("Range"):
                hub.ranges.append((path.name, part))
                begin = int(part.removeprefix("bytes=").split("-")[0])
                status = 206
                headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
            if path.name != hub.cut:
                return self.answer(status, content[begin:], headers)

            hub.cut, hub.refusing = None, True
            self.start(status, len(content) - begin, headers)
            self.wfile.write(content[begin : len(content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None

    return ModelScopeHandler


def listing(folder: Path) -> list[dict]:
    return [
        {
            "Name": path.name,
            "Path": path.relative_to(folder).as_posix(),
            "Type": "blob",
            "Size": path.stat().st_size,
            "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
