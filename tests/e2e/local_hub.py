"""A server on this machine that speaks the hub's endpoints, for one file of one repository, and plain HTTP with ranges."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what was asked of it."""

    repo: str
    file: str
    data: bytes
    sha256: str = ""  # as it claims; empty: the real one
    cut_after: int | None = None  # bytes, once: the connection breaks there
    token: str | None = None
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.data).hexdigest()

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield self
        server.shutdown()
        thread.join()
        server.server_close()

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["content-length"]))
                if self.path.startswith(f"/api/models/{hub.repo}/paths-info/"):
                    paths = urllib.parse.parse_qs(asked.decode())["paths"]
                    lfs = {"oid": hub.sha256, "size": len(hub.data), "pointerSize": 130}
                    row = {
                        "type": "file",
                        "path": hub.file,
                        "size": len(hub.data),
                        "oid": "0" * 40,
                        "lfs": lfs,
                    }
                    self.reply(
                        200, json.dumps([row] if hub.file in paths else []).encode(), "application/json"
                    )
                else:
                    self.reply(404, b"{}")

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.reply(401, b'{"error": "gated"}', "application/json")
                elif not self.path.endswith(hub.file):
                    self.reply(404, b"no such file")
                else:
                    self.send_file()

            def send_file(self) -> None:
                start = 0
                asked = self.headers.get("Range")
                if self.command == "GET":
                    hub.ranges.append(asked)
                if asked:
                    start = int(asked.removeprefix("bytes=").split("-")[0])
                body = hub.data[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{hub.sha256}"')
                self.send_header("X-Repo-Commit", REVISION)
                self.send_header("X-Linked-Size", str(len(hub.data)))
                self.send_header("X-Linked-Etag", f'"{hub.sha256}"')
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(hub.data) - 1}/{len(hub.data)}")
                self.end_headers()
                if self.command == "HEAD":
                    return
                if hub.cut_after is not None:
                    body, hub.cut_after = body[: hub.cut_after], None
                    self.close_connection = True
                self.wfile.write(body)

            def reply(self, status: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler
