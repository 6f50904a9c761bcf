"""A web server that misbehaves on command. Its one object has self-describing pages, in two versions."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vmofs.testing import pattern

SIZE = 1_000_000
OLD, NEW = pattern.KEY_STEP, 2 * pattern.KEY_STEP
"""The keys of the two versions of the object."""

_DATES = {OLD: "Mon, 30 Nov 2026 10:00:00 GMT", NEW: "Mon, 30 Nov 2026 11:00:00 GMT"}
_TAGS = {OLD: '"old-1"', NEW: '"new-2"'}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms otherwise, for the body waits until the head is acknowledged
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.count += 1
            count, fault = server.count, server.fault
            server.asked.append(dict(self.headers.items()) | {":path": self.path})
        if server.wait:
            time.sleep(server.wait)
        refusal = server.refusals.get(fault)
        if refusal and (fault != "503 every second" or count % 2):
            self._refuse(refusal)
        elif "list-type=2" in self.path:
            self._list()
        elif fault == "closes":
            self.close_connection = True
        elif fault == "silent":
            server.released.wait(20)
            self.close_connection = True
        elif fault.startswith("link") and self.path.startswith("/first"):
            self._redirect()
        elif fault == "link" and self.path.startswith("/signed") and not server.link_works(self.path):
            self._refuse((403, {}))
        else:
            self._serve(fault)

    def _refuse(self, refusal: tuple[int, dict[str, str]]) -> None:
        status, headers = refusal
        self._head(status, {"Content-Length": "5", **headers})
        self.wfile.write(b"sorry")

    def _list(self) -> None:
        """Answer as S3 does when it is asked what a bucket has."""
        keys = "".join(
            f"<Contents><Key>tree/{name}</Key><Size>{SIZE}</Size><ETag>{escape(_TAGS[OLD])}</ETag>"
            "<LastModified>2026-11-30T10:00:00.123Z</LastModified></Contents>"
            for name in ("a/b", "c")
        )
        body = f"<ListBucketResult>{keys}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
        self._head(200, {"Content-Length": str(len(body)), "Content-Type": "application/xml"})
        self.wfile.write(body)

    def _redirect(self) -> None:
        self.server.links += 1
        self._head(302, {"Location": f"/signed{self.server.links}", "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _version(self, fault: str) -> tuple[int, dict[str, str]]:
        key = NEW if fault.startswith("replaced") else OLD
        headers = {"ETag": _TAGS[key], "Last-Modified": _DATES[key]}
        if fault == "replaced, same tag":
            headers["ETag"] = _TAGS[OLD]
        if fault == "replaced, same date":
            headers["Last-Modified"] = _DATES[OLD]
        if fault == "weak tag":
            headers["ETag"] = "W/" + headers["ETag"]
        if fault == "no tag":
            del headers["ETag"]
        if fault == "nothing to compare":
            headers.clear()
        return key, headers

    def _serve(self, fault: str) -> None:
        server = self.server
        key, headers = self._version(fault)
        whole = SIZE if server.content is None else len(server.content)
        size = 0 if fault == "empty" else SIZE - 5000 if fault == "shorter" else whole
        wanted = self.headers.get("If-Match")
        if wanted and server.checks_if_match and (fault == "weak tag" or wanted != headers.get("ETag")):
            self._head(412, {"Content-Length": "0"})
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None or fault in {"no ranges", "gzip"}:
            encoding = {"Content-Encoding": "gzip"} if fault == "gzip" else {}
            self._head(200, headers | encoding | {"Content-Length": str(size)})
            self._body(server.make(key, 0, size // 2 if fault == "half the body" else size))
            self.close_connection = True
            return
        first, last = int(found[1]), min(int(found[2]), size - 1)
        if first >= size:
            self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        if fault == "another range":
            first, last = first + 4096, min(last + 4096, size - 1)
        if fault == "half the range":
            last = (first + last) // 2
        total = "*" if fault == "size unknown" else str(size)
        data = server.make(key, first, last - first + 1)
        told = "bytes 0-4095/" + total if fault == "tells another range" else f"bytes {first}-{last}/{total}"
        self._head(206, headers | {"Content-Range": told, "Content-Length": str(len(data))})
        if fault.startswith("half the body"):
            self._body(data[: len(data) // 2])
            if fault == "half the body, then silence":
                self.server.released.wait(20)
            self.close_connection = True
            return
        self._body(data)

    def _body(self, data: bytes) -> None:
        if self.command == "HEAD":
            return
        self.server.sent += len(data)
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True


class FaultyServer(ThreadingHTTPServer):
    """Serves the object under every path; ``fault`` says how it misbehaves."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lock = threading.Lock()
        self.fault = ""
        self.wait = 0.0
        self.content: bytes | None = None
        self.checks_if_match = True
        self.count = self.links = self.sent = 0
        self.uses: dict[str, int] = {}
        self.asked: list[dict[str, str]] = []
        self.released = threading.Event()
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {
            "503": (503, {}),
            "503 every second": (503, {"Retry-After": "0"}),
            "429": (429, {"Retry-After": "7"}),
            **{str(status): (status, {}) for status in (400, 401, 403, 404, 410, 412, 418, 500)},
        }

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self.server_address[1])

    def url(self, path: str = "data") -> str:
        """Return where a path of it is."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def make(self, key: int, offset: int, length: int) -> bytes:
        """Return a range of the object."""
        if self.content is not None:
            return self.content[offset : offset + length]
        return pattern.make(key, offset, length)

    def link_works(self, path: str) -> bool:
        """Count a use of a link; each works three times."""
        with self.lock:
            self.uses[path] = self.uses.get(path, 0) + 1
            return self.uses[path] <= 3

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients go away as they like."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Remember connections, so that they end with the server, as those of a killed one do."""
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    _connections: list[socket.socket] = []  # noqa: RUF012 - replaced for each server below

    def kill(self) -> None:
        """End it with all connections, as kill -9 does."""
        self.released.set()
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        """Serve in a thread."""
        self._connections = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@contextmanager
def faulty_server(port: int = 0) -> Iterator[FaultyServer]:
    """Run one for the length of the block."""
    server = FaultyServer(port)
    server.start()
    try:
        yield server
    finally:
        server.kill()
