"""A file on a web server (http, https), read in ranges.

What it is compared by: ETag without its mark of weakness, Last-Modified, size. *Every* answer is compared. If-Match
alone would not do: there are servers that take it and do not look, that call an ETag weak at first and strong later
(Apache, in a file's first second), or have one strong ETag for two contents (nginx: whole seconds and the size). What
none of the three shows, cannot be seen here.
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from vmofs.client import Changed, Retry, Unavailable
from vmofs.pagers.http_client import Answer, HttpClient
from vmofs.pagers.source import ExitCode, Refusal, Source, patiently

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_NOT_ALLOWED = {401, 403}
_GONE = {404, 410}
_MOMENTARY = {408, 425, 429, 500, 502, 503, 504}


class _Version(NamedTuple):
    tag: str
    modified: str
    size: int

    def __str__(self) -> str:
        """Return what tells it from another one, for people."""
        return " ".join(
            part for part in (self.tag, self.modified and f"of {self.modified}", f"{self.size} bytes") if part
        )


class WebFile(Source):
    """A file on a web server. Opening it reads its first byte.

    Args:
        url: Its address.
        client: Whose connections are used; several files may share one.
        patience: How many seconds it is tried again while the server is away.

    Raises:
        Refusal: It is not there, it is not allowed, the server is away, or it cannot do ranges.
    """

    def __init__(self, url: str, client: HttpClient, patience: float = 3.0) -> None:
        parts = urlsplit(url)
        self.url = without_credentials(url)
        self.name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname or "file"
        self._client, self._asked_url, self._lock = client, url, threading.Lock()
        self._final_url = url
        self._stale: str | None = None
        self._if_match: dict[str, str] = {}
        answer = self._prove(patience)
        self.size = int(answer.headers["content-range"].rpartition("/")[2]) if answer.status == 206 else 0
        self._version = _version(answer, self.size)
        self.version = str(self._version)
        tag = answer.headers.get("etag", "")
        if tag and not tag.startswith("W/"):
            self._if_match = {"If-Match": tag}

    @property
    def is_watched(self) -> bool:
        """Return whether the server tells more of a version than its size."""
        return bool(self._version.tag or self._version.modified)

    def _prove(self, patience: float) -> Answer:
        """Return the answer to a request for the first byte: it shows that ranges work, and the size."""
        try:
            answer = patiently(self._first, patience)
        except Retry as error:
            raise Refusal(f"{self.url}: {error}", ExitCode.TEMPORARY) from error
        except Unavailable as error:
            raise Refusal(f"{self.url}: {error}", ExitCode.OTHER) from error
        self._refuse_status(answer)
        if answer.status == 206:
            self._refuse_range(answer)
        self._final_url = answer.url
        return answer

    def _refuse_status(self, answer: Answer) -> None:
        """Refuse what is neither the first byte nor, by 416 or as nginx does by an empty 200, an empty file."""
        status, headers = answer.status, answer.headers
        if status in _GONE:
            raise Refusal(f"{self.url}: the server has no such file ({status})", ExitCode.NOT_FOUND)
        if status in _NOT_ALLOWED:
            raise Refusal(f"{self.url}: not allowed ({status}); see --header-file", ExitCode.NOT_ALLOWED)
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refusal(f"{self.url}: the server encodes it ({encoding}) although it was asked not to")
        is_empty = headers.get("content-length" if status == 200 else "content-range") in {"0", "bytes */0"}
        if status == 200 and not is_empty:
            raise Refusal(f"{self.url}: the server answers a range with the whole file; --whole fetches that once")
        if status not in {200, 206} and not (status == 416 and is_empty):
            raise Refusal(f"{self.url}: the server answers {status} to a request for the first byte", ExitCode.OTHER)

    def _refuse_range(self, answer: Answer) -> None:
        """Refuse another range than the first byte, and one of a size that is not said."""
        text = answer.headers.get("content-range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None or found[3] == "*":
            raise Refusal(f"{self.url}: the server does not say how large the file is; --whole fetches it once")
        if (found[1], found[2], len(answer.body)) != ("0", "0", 1):
            raise Refusal(f"{self.url}: asked for its first byte, the server sent {text!r}, {len(answer.body)} bytes")

    def _first(self) -> Answer:
        answer = self._client.get(self._asked_url, self._asked_url, (0, 0), {})
        if answer.status in _MOMENTARY:
            raise _retry(answer)
        return answer

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Return the bytes, if the server has sent exactly these of exactly this version."""
        if self._stale is not None:
            raise Changed(self._stale)
        if not length:
            return b""
        home, url, ends = self._asked_url, self._final_url, (offset, offset + length - 1)
        answer = self._client.get(url, home, ends, self._if_match)
        if answer.status in _GONE | _NOT_ALLOWED | {400} and (url != home or answer.status in _NOT_ALLOWED):
            # A link that was signed has expired, or what allows it has: the first address gives a new one, once.
            if answer.status in _NOT_ALLOWED:
                self._client.read_headers()
            answer = self._client.get(home, home, ends, self._if_match)
        self._check_status(answer, offset, length)
        self._check_range(answer, offset, length)
        self._final_url = answer.url
        return answer.body

    def _check_status(self, answer: Answer, offset: int, length: int) -> None:
        """Raise what the status means, unless it is one of success."""
        status, headers = answer.status, answer.headers
        if status in _MOMENTARY:
            raise _retry(answer)
        if status in _GONE:
            raise self._changed(f"the server has it no longer ({status})")
        if status == 412:
            raise self._changed("the server has another version (412)")
        if status == 416:
            raise self._changed(f"{offset}+{length} is beyond its end now ({headers.get('content-range', '416')})")
        if status in _NOT_ALLOWED:
            raise Unavailable(f"credentials or a signed link have expired ({status})")
        if status not in {200, 206}:
            raise Unavailable(f"the server answers {status}")

    def _check_range(self, answer: Answer, offset: int, length: int) -> None:
        """Raise, unless it is the range that was asked for, whole, and of this version."""
        headers = answer.headers
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        size = int(found[3]) if found is not None and found[3] != "*" else self.size
        version = _version(answer, size)
        if version != self._version:
            raise self._changed(f"{self._version} is now {version}")
        if headers.get("content-encoding", "identity") != "identity":
            raise Unavailable(f"the server encodes it ({headers['content-encoding']})")
        if answer.status == 200:
            raise Unavailable("the server answers a range with the whole file")
        if found is None or (found[1], found[2]) != (str(offset), str(offset + length - 1)):
            got = headers.get("content-range", "no Content-Range")
            raise Unavailable(f"asked for bytes {offset}-{offset + length - 1}, the server sent {got}")
        if len(answer.body) != length:
            raise Retry(f"{len(answer.body)} of {length} bytes came")

    def _changed(self, sentence: str) -> Changed:
        with self._lock:
            self._stale = self._stale or sentence
        return Changed(self._stale)


def without_credentials(url: str) -> str:
    """Return the URL as it may be shown: no password, and no query, in which signatures stand."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _version(answer: Answer, size: int) -> _Version:
    headers = answer.headers
    return _Version(headers.get("etag", "").removeprefix("W/"), headers.get("last-modified", ""), size)


def _retry(answer: Answer) -> Retry:
    return Retry(f"the server answers {answer.status}", after=_seconds(answer.headers.get("retry-after")))


def _seconds(after: str | None) -> float | None:
    """Return how long a Retry-After says to wait: it is a number of seconds, or a date."""
    if after is None:
        return None
    if after.isdecimal():
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None
