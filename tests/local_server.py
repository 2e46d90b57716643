"""An HTTP server on this machine, which the hubs in tests are made of."""

import http.server
import threading
from collections.abc import Mapping


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with a length and without a log; ``HEAD`` gets no body."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.start(status, len(content), headers or {})
        if self.command != "HEAD":
            self.wfile.write(content)

    def start(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        """Send what comes before the content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


class LocalServer:
    """Serves requests with ``handler`` until ``close``.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, handler: type[Handler]) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
