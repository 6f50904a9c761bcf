"""URLs of all other kinds (ftp, sftp, github, ...), read in ranges by fsspec.

fsspec does not tell the version of an answer, so the version is asked for beside the reads, once a second at most: a
file that is replaced may be seen that late. Where fsspec tells no version, only the size is left.
"""

from __future__ import annotations

import threading
import time
from typing import cast
from urllib.parse import unquote

import fsspec

from vmofs.client import Changed, Retry, Unavailable
from vmofs.pagers.source import ExitCode, Refusal, Source, short
from vmofs.pagers.web_file import without_credentials

_LOOK_AGAIN = 1.0
_VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "modify", "mtime", "sha", "mtime_ns")


class ForeignFile(Source):
    """A file that fsspec can read."""

    def __init__(self, url: str) -> None:
        self.url = without_credentials(url)
        try:
            self._filesystem, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False)
            self.size, self.version = self._describe()
        except FileNotFoundError as error:
            raise Refusal(f"{self.url}: there is no such file", ExitCode.NOT_FOUND) from error
        except PermissionError as error:
            raise Refusal(f"{self.url}: not allowed", ExitCode.NOT_ALLOWED) from error
        except (ValueError, ImportError) as error:
            raise Refusal(f"{self.url}: {short(error)}") from error
        except OSError as error:
            raise Refusal(f"{self.url}: {short(error)}", ExitCode.TEMPORARY) from error
        self.name = unquote(self._path.rstrip("/").rpartition("/")[2])
        self._lock, self._looked, self._stale = threading.Lock(), time.monotonic(), False

    def _describe(self) -> tuple[int, str | None]:
        info = cast("dict[str, object]", self._filesystem.info(self._path))
        size = info.get("size")
        if not isinstance(size, int):
            raise Refusal(f"{self.url}: its size is not known")
        return size, " ".join(str(info[key]) for key in _VERSION_KEYS if info.get(key)) or None

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes. The number of them is compared: a server without ranges gives all."""
        if self._stale:
            raise Changed("it was replaced")
        try:
            data = cast("bytes", self._filesystem.cat_file(self._path, start=offset, end=offset + length))
            self._look()
        except FileNotFoundError as error:
            self._stale = True
            raise Changed("it is there no longer") from error
        except PermissionError as error:
            raise Unavailable("credentials have expired") from error
        except (OSError, EOFError, TimeoutError) as error:
            raise Retry(short(error)) from error
        if len(data) != length:
            raise Unavailable(f"{len(data)} bytes came for {offset}+{length}")
        return data

    def _look(self) -> None:
        with self._lock:
            if time.monotonic() - self._looked < _LOOK_AGAIN:
                return
            self._looked = time.monotonic()
        now = self._describe()
        if now != (self.size, self.version):
            self._stale = True
            raise Changed(f"{self.version} of {self.size} bytes is now {now[1]} of {now[0]} bytes")
