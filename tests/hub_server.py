"""A hub over HTTP: serves a local folder laid out as <owner>/<name> the way ModelScope's API does, and can break off."""

import hashlib
import http.server
import json
import socket
import threading
import urllib.parse
from pathlib import Path


class Hub:
    """Serves ``root``; ``cut`` names a file that breaks off in the middle, once, after which all is refused until ``mend``."""

    def __init__(self, root: Path) -> None:
        self.root, self.cut, self.refusing, self.ranges = root, None, False, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urllib.parse.urlparse(self.path)
                part = url.path.split("/")
                if hub.refusing or len(part) < 6 or "/api/v1/models/" not in url.path:
                    return self.answer(404, b"{}")
                folder = hub.root / part[4] / part[5]
                if url.path.endswith("/repo/files"):
                    return self.answer(
                        200,
                        json.dumps(
                            {"Code": 200, "Success": True, "Data": {"Files": listing(folder)}}
                        ).encode(),
                    )
                self.file(folder / urllib.parse.parse_qs(url.query)["FilePath"][0])

            do_HEAD = do_POST = do_GET

            def answer(self, status, content):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def file(self, path):
                content, begin = path.read_bytes(), 0
                if asked := self.headers.get("Range"):
                    hub.ranges.append((path.name, asked))
                    begin = int(asked.removeprefix("bytes=").split("-")[0])
                    self.send_response(206)
                    self.send_header(
                        "Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}"
                    )
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - begin))
                self.end_headers()
                if path.name == hub.cut:
                    hub.cut, hub.refusing = None, True
                    self.wfile.write(content[begin : len(content) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                else:
                    self.wfile.write(content[begin:])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


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
