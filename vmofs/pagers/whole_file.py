"""A file of a web server that cannot be read in ranges: fetched once, as a whole, when it is opened."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from vmofs.client import Retry, Unavailable
from vmofs.pagers.http_client import HttpClient
from vmofs.pagers.source import ExitCode, Refusal, Source, patiently
from vmofs.pagers.web_file import without_credentials


class WholeFile(Source):
    """A file that was fetched into one without a name, which is gone with this process, whatever becomes of it.

    What the server has later is not looked at: this is what it had when the file was opened.

    Raises:
        Refusal: It cannot be fetched; the sentence says why.
    """

    def __init__(self, url: str, client: HttpClient, directory: Path, patience: float = 3.0) -> None:
        self.url = without_credentials(url)
        self.name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "file"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it is open as long as this
        try:
            patiently(lambda: self._fetch(url, client), patience)
        except Refusal:
            self._file.close()
            raise
        except (Retry, Unavailable) as error:
            self._file.close()
            code = ExitCode.TEMPORARY if isinstance(error, Retry) else ExitCode.OTHER
            raise Refusal(f"{self.url}: {error}", code) from error
        self.size = os.fstat(self._file.fileno()).st_size

    def _fetch(self, url: str, client: HttpClient) -> None:
        """Fetch it anew from its beginning."""
        self._file.seek(0)
        self._file.truncate()
        answer = client.get_whole(url, self._file)
        self._file.flush()
        status, headers = answer.status, answer.headers
        if status in {404, 410}:
            raise Refusal(f"{self.url}: the server has no such file ({status})", ExitCode.NOT_FOUND)
        if status in {401, 403}:
            raise Refusal(f"{self.url}: not allowed ({status}); see --header-file", ExitCode.NOT_ALLOWED)
        if status in {408, 425, 429, 500, 502, 503, 504}:
            raise Retry(f"the server answers {status}")
        if status != 200:
            raise Unavailable(f"the server answers {status}")
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refusal(f"{self.url}: the server encodes it ({encoding}) although it was asked not to")
        tag = headers.get("etag", "").removeprefix("W/")
        self.version = " ".join(part for part in (tag, headers.get("last-modified", "")) if part) or None

    def read(self, offset: int, length: int) -> bytes:
        """Return a range of what was fetched."""
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise Unavailable(f"{len(data)} of {length} bytes were kept")
        return data

    def close(self) -> None:
        """Give the room back."""
        self._file.close()
