"""Objects in S3, Google Cloud Storage and Azure (s3, gs, az), read in ranges by obstore.

Credentials are what each cloud's tools use: the environment, or what the machine is given; none for ``anonymous``.
obstore signs, and checks that an answer is the range that was asked for. It does not show Retry-After, so a store that
asks for patience is asked again after the framework's own pauses.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import ObjectStore, from_url

from vmofs.client import Changed, Retry, Unavailable
from vmofs.pagers.source import ExitCode, Refusal, Source, patiently, short

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

_STATUS = re.compile(r"status code: (\d{3})")
"""Where obstore's general error has the status of HTTP."""

_NO_RANGES = "non-partial response"
_MOMENTARY = {408, 425, 429, 500, 502, 503, 504}
_CODES = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND, 503: ExitCode.TEMPORARY}
_OTHER_NOW = {404, 410, 412, 416}


@dataclass(frozen=True)
class Access:
    """How stores are reached: at another endpoint than the cloud's own, without credentials, with which patience."""

    endpoint: str | None = None
    anonymous: bool = False
    seconds: float = 10.0


class Bucket:
    """A bucket, and how it is reached; again from the beginning when credentials have expired."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._access = access
        self.store = self._connect()

    def reconnect(self) -> None:
        """Read the credentials again."""
        self.store = self._connect()

    def _connect(self) -> ObjectStore:
        seconds = self._access.seconds
        client: ClientConfig = {"connect_timeout": "2s", "read_timeout": "5s", "timeout": f"{seconds:g}s"}
        # The framework retries: it knows the deadline, and can be asked what goes on.
        retries: RetryConfig = {"max_retries": 0, "retry_timeout": dt.timedelta(seconds=seconds)}
        config: dict[str, str | bool] = {"skip_signature": True} if self._access.anonymous else {}
        endpoint = self._access.endpoint
        if endpoint is not None:
            client["allow_http"] = endpoint.startswith("http:")
            config["base_url" if self.url.startswith("gs:") else "endpoint"] = endpoint
        try:
            # The configurations of the three clouds are of three types; what stands in it is in all of them.
            settings = cast("S3Config", config)
            return from_url(self.url, config=settings, client_options=client, retry_config=retries)
        except exceptions.BaseError as error:
            raise Refusal(f"{self.url}: {short(error)}", ExitCode.USAGE) from error

    def objects(self, prefix: str) -> Iterator[ObjectMeta]:
        """Yield what the store's list says of the objects below a prefix.

        Raises:
            Refusal: They cannot be listed.
        """
        try:
            for batch in obstore.list(self.store, prefix=prefix or None):
                yield from batch
        except (exceptions.BaseError, FileNotFoundError) as error:
            code = _CODES.get(_status(error) or 0, ExitCode.OTHER)
            raise Refusal(f"{self.url}: it cannot be listed: {short(error)}", code) from error


class BucketFile(Source):
    """An object. Opening it reads its first byte, which proves that ranges work, and the size.

    Args:
        bucket: Where it is.
        path: Its path there.
        name: What it is called here; without one, as the last part of its path.
        listed: What the store's list says of it, which is believed: opening it asks nothing then.
        patience: How many seconds it is tried again while the store is away.
    """

    def __init__(
        self,
        bucket: Bucket,
        path: str,
        name: str | None = None,
        listed: ObjectMeta | None = None,
        patience: float = 3.0,
    ) -> None:
        self._bucket, self._path = bucket, path
        self.url = f"{bucket.url}/{path}"
        self.name = name or path.rpartition("/")[2]
        self._stale: str | None = None
        self._lock = threading.Lock()
        try:
            meta = listed or patiently(self._prove, patience)
        except Retry as error:
            raise Refusal(f"{self.url}: {error}", ExitCode.TEMPORARY) from error
        except (Unavailable, Changed) as error:
            raise Refusal(f"{self.url}: {error}", ExitCode.OTHER) from error
        self.size = meta["size"]
        # A list tells a date more exactly than an answer does, and no version: those are of the first answer then.
        self._version = _version(meta) if listed is None else None
        self._content = _content(meta)
        self.version = " ".join(str(part) for part in self._version or self._content if part)
        tag = meta["e_tag"]
        self._options: GetOptions = {"if_match": tag} if tag and not tag.startswith("W/") else {}
        if meta["version"]:
            self._options["version"] = meta["version"]

    def _prove(self) -> ObjectMeta:
        try:
            try:
                first = obstore.get(self._bucket.store, self._path, options={"range": (0, 1)})
            except exceptions.GenericError as error:
                if _status(error) != 416:
                    raise
                meta = obstore.head(self._bucket.store, self._path)
                if meta["size"]:
                    raise Unavailable(f"has {meta['size']} bytes, and not the first one: {short(error)}") from error
                return meta
            if len(first.bytes()) != 1:
                raise Refusal(f"{self.url}: the store does not serve ranges")
        except FileNotFoundError as error:
            raise Refusal(f"{self.url}: there is no such object", ExitCode.NOT_FOUND) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise Refusal(f"{self.url}: not allowed: {short(error)}", ExitCode.NOT_ALLOWED) from error
        except exceptions.BaseError as error:
            if isinstance(error, exceptions.NotSupportedError) or _NO_RANGES in str(error):
                raise Refusal(f"{self.url}: the store does not serve ranges") from error
            self._translate(error)
        if "Content-Encoding" in first.attributes and first.attributes["Content-Encoding"] != "identity":
            raise Refusal(f"{self.url}: the store encodes it ({first.attributes['Content-Encoding']})")
        return first.meta

    def read(self, offset: int, length: int) -> memoryview | bytes:
        """Return the bytes, if the store has sent exactly these of exactly this version."""
        if self._stale is not None:
            raise Changed(self._stale)
        if not length:
            return b""
        try:
            return self._get(offset, length)
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            self._bucket.reconnect()
        except exceptions.BaseError as error:
            self._translate(error)
        except FileNotFoundError as error:
            raise self._changed("the store has it no longer") from error
        try:
            return self._get(offset, length)
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise Unavailable(f"credentials have expired: {short(error)}") from error
        except exceptions.BaseError as error:
            self._translate(error)
        except FileNotFoundError as error:
            raise self._changed("the store has it no longer") from error

    def _get(self, offset: int, length: int) -> memoryview:
        options: GetOptions = {**self._options, "range": (offset, offset + length)}
        result = obstore.get(self._bucket.store, self._path, options=options)
        version = _version(result.meta)
        with self._lock:
            self._version = self._version or version
            is_other = version != self._version or _content(result.meta) != self._content
        if is_other:
            raise self._changed(f"{self.version} is now {' '.join(str(part) for part in version if part)}")
        data = memoryview(result.bytes())
        if len(data) != length:
            raise Unavailable(f"{len(data)} bytes came for {offset}+{length}")
        return data

    def _translate(self, error: exceptions.BaseError) -> NoReturn:
        """Raise what an error of obstore means. Its kind says little, so that its words are looked at."""
        sentence, status = str(error), _status(error)
        if isinstance(error, exceptions.PreconditionError) or status in _OTHER_NOW or "precondition" in sentence:
            raise self._changed(f"the store has another version, or none: {short(error)}") from error
        if status in _MOMENTARY or (status is None and "HTTP error" in sentence and "certificate" not in sentence):
            raise Retry(short(error)) from error
        raise Unavailable(short(error)) from error

    def _changed(self, sentence: str) -> Changed:
        with self._lock:
            self._stale = self._stale or sentence
        return Changed(self._stale)


def bucket_files(url: str, access: Access) -> Iterator[BucketFile]:
    """Yield the object of a URL, or, if it ends in a slash, those below it, named by their path there."""
    bucket, path = Bucket(url, access), unquote(urlsplit(url).path.lstrip("/"))
    if path and not path.endswith("/"):
        yield BucketFile(bucket, path)
        return
    for meta in bucket.objects(path):
        name = meta["path"].removeprefix(path)
        if name:
            yield BucketFile(bucket, meta["path"], name, meta)


def _content(meta: ObjectMeta) -> tuple[str, int]:
    return (meta["e_tag"] or "").removeprefix("W/"), meta["size"]


def _version(meta: ObjectMeta) -> tuple[str, str, int]:
    return (meta["e_tag"] or "").removeprefix("W/"), meta["version"] or str(meta["last_modified"]), meta["size"]


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None
