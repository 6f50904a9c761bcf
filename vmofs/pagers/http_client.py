"""One HTTP request for one range, by libcurl: what the server answered, or that it did not.

libcurl and not obstore, which serves the object stores, because a range of a web server is right only if more is known
of the answer than obstore tells: Retry-After, the address behind a redirect, the encoding of the content.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import pycurl

from vmofs import __version__
from vmofs.client import Retry, Unavailable

CONNECT_SECONDS = 2
SILENT_SECONDS = 5
"""A server that sends no byte for so long has failed."""

_MOST_REDIRECTS = 10
_BUFFER_BYTES = 512 << 10
"""How much libcurl gives at a time. With its own 16 KiB a range of 4 MiB costs 1.5 times the CPU time."""

_MOST_OF_AN_ERROR = 2048
_MOMENTARY = {
    pycurl.E_COULDNT_RESOLVE_HOST,
    pycurl.E_COULDNT_CONNECT,
    pycurl.E_OPERATION_TIMEDOUT,
    pycurl.E_PARTIAL_FILE,
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_HTTP2,
    92,  # CURLE_HTTP2_STREAM, which pycurl has no name for
}
"""Errors of libcurl that may be others a moment later. A certificate that is not trusted is none of them."""

_REDIRECTS = {301, 302, 303, 307, 308}


@dataclass
class Answer:
    """What a server answered."""

    url: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case names; of several of one name the last."""

    body: bytearray = field(default_factory=bytearray)
    """The range, if the status is 206; otherwise the beginning of what came."""


class _Receiver:
    """Takes the lines of the head and the pieces of the body of an answer."""

    def __init__(self, url: str, ends: tuple[int, int] | None, file: IO[bytes] | None = None) -> None:
        self.answer = Answer(url)
        self.ends, self._file = ends, file
        self.was_enough = False

    def take_line(self, raw: bytes) -> None:
        """Take a line of the head."""
        line = raw.decode("iso-8859-1").strip()
        if line.startswith("HTTP/"):  # a new answer: before it came a 100, or what a proxy said
            self.answer.status = int(line.split(" ")[1])
            self.answer.headers.clear()
        elif ":" in line:
            name, _, value = line.partition(":")
            self.answer.headers[name.strip().lower()] = value.strip()

    def take_piece(self, piece: bytes) -> int | None:
        """Take a piece of the body; of what is no range only the beginning, so that a whole file is not fetched."""
        if self._file is not None and self.answer.status == 200:
            self._file.write(piece)
            return None
        most = self.ends[1] - self.ends[0] + 1 if self.ends and self.answer.status == 206 else _MOST_OF_AN_ERROR
        if len(self.answer.body) + len(piece) > most:
            self.was_enough = True
            return 0  # to libcurl: stop
        self.answer.body += piece
        return None


class HttpClient:
    """Connections that are kept, for several threads at a time, and what is sent with each request.

    Args:
        header_file: Lines ``Name: value`` that are sent to the first server, and not to where it redirects to. It is
            read again when the server says that it is not allowed.
        seconds: How long one request may take, whatever comes.
    """

    def __init__(self, header_file: Path | None = None, seconds: float = 10.0) -> None:
        self._header_file, self._seconds = header_file, seconds
        self._lock = threading.Lock()
        self._idle: list[pycurl.Curl] = []
        self._headers: list[str] = []
        self.read_headers()
        defaults = ssl.get_default_verify_paths()
        self._certificates = next(
            (path for path in (defaults.cafile, *_CERTIFICATES) if path and Path(path).exists()), None
        )

    def read_headers(self) -> None:
        """Read the file of headers again."""
        if self._header_file is not None:
            lines = self._header_file.read_text(encoding="utf-8").splitlines()
            self._headers = [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()

    def get(self, url: str, home: str, ends: tuple[int, int], headers: Mapping[str, str]) -> Answer:
        """Ask for a range, from its first to its last byte, and follow redirects.

        Args:
            url: What is asked: ``home``, or where that has redirected to before.
            home: The address that the user gave: only its server gets the file of headers.
            ends: The first and the last byte.
            headers: What else is sent.

        Returns:
            The last answer; its ``url`` is where it came from.

        Raises:
            Retry: There was no answer, or it broke off.
            Unavailable: There cannot be one.
        """
        lines = [f"{name}: {value}" for name, value in headers.items()]
        return self._follow(url, home, lines, lambda at: _Receiver(at, ends))

    def get_whole(self, url: str, file: IO[bytes]) -> Answer:
        """Ask for all of it, and write it to a file, if the status is 200; see ``get``."""
        return self._follow(url, url, [], lambda at: _Receiver(at, None, file))

    def _follow(self, url: str, home: str, lines: list[str], receiver: Callable[[str], _Receiver]) -> Answer:
        origin = urlsplit(home)[:2]
        for _ in range(_MOST_REDIRECTS):
            # What stands in the file of headers is for one server: another one must not learn it.
            own = self._headers if urlsplit(url)[:2] == origin else []
            answer = self._get_once(receiver(url), [*own, *lines])
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            url = urljoin(url, answer.headers["location"])
            if urlsplit(url).scheme not in {"http", "https"}:
                raise Unavailable(f"the server redirects to {urlsplit(url).scheme!r}")
        raise Unavailable(f"the server redirects more than {_MOST_REDIRECTS} times")

    def _get_once(self, receiver: _Receiver, headers: list[str]) -> Answer:
        with self._lock:
            handle = self._idle.pop() if self._idle else None
        handle = handle or self._new_handle()
        handle.setopt(pycurl.URL, receiver.answer.url)
        handle.setopt(pycurl.HTTPHEADER, ["Accept-Encoding: identity", *headers])
        if receiver.ends is None:
            # All of a file may take as long as it likes, as long as something comes.
            handle.unsetopt(pycurl.RANGE)
            handle.setopt(pycurl.TIMEOUT_MS, 0)
        else:
            handle.setopt(pycurl.RANGE, "{}-{}".format(*receiver.ends))
            handle.setopt(pycurl.TIMEOUT_MS, max(1, int(self._seconds * 1000)))
        handle.setopt(pycurl.HEADERFUNCTION, receiver.take_line)
        handle.setopt(pycurl.WRITEFUNCTION, receiver.take_piece)
        try:
            handle.perform()
        except pycurl.error as error:
            if not receiver.was_enough:
                code, sentence = error.args[0], str(error.args[1])
                raise (Retry if code in _MOMENTARY else Unavailable)(sentence or f"curl error {code}") from error
        finally:
            with self._lock:
                self._idle.append(handle)
        return receiver.answer

    def _new_handle(self) -> pycurl.Curl:
        """Return a handle of libcurl, which keeps its connections between requests."""
        handle = pycurl.Curl()
        handle.setopt(pycurl.USERAGENT, f"vmofs/{__version__}")
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
        handle.setopt(pycurl.NOSIGNAL, 1)  # it is used in threads
        handle.setopt(pycurl.CONNECTTIMEOUT, CONNECT_SECONDS)
        handle.setopt(pycurl.LOW_SPEED_LIMIT, 1)
        handle.setopt(pycurl.LOW_SPEED_TIME, SILENT_SECONDS)
        if self._certificates:
            handle.setopt(pycurl.CAINFO, self._certificates)
        return handle


_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where distributions keep whom they trust; libcurl's wheel knows only where it was built."""
