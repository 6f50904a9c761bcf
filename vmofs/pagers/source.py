"""One file that can be read in ranges, wherever it is; and why it cannot be opened.

The rules that every source keeps, so that no reader ever sees a wrong byte:

* Before anything is promised, one range has been read: it proves that ranges work, and how large the file is.
* A read returns exactly the bytes that were asked for, of the version that was promised, or it raises.
* A failure is not remembered, but for one: a source that has become another one says so for ever (``Changed``).
"""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from threading import Lock
from typing import TypeVar

from vmofs.client import Changed, Data, Retry, Unavailable

Answer = TypeVar("Answer")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
BUFFER_BYTES = 64 << 10
"""How much of a source is read at once for a library that asks for a few bytes: one round trip costs as much."""


class ExitCode(IntEnum):
    """How the program ends when a URL cannot be opened; 1 to 5 and 7 are those of rclone."""

    OTHER = 1
    USAGE = 2
    NO_MOUNT = 3
    NOT_FOUND = 4
    TEMPORARY = 5
    NOT_ALLOWED = 6
    CANNOT = 7
    CHANGED = 8
    READS_FAILED = 9


class Refusal(Exception):  # noqa: N818 - it is what the source does
    """The source cannot be opened. The sentence says why, and what can be done."""

    def __init__(self, sentence: str, code: ExitCode = ExitCode.CANNOT) -> None:
        super().__init__(sentence)
        self.code = code


class Source(ABC):
    """A file that can be read in ranges."""

    name: str
    """What a file of it is called: the last component of its path, or a path within a tree."""

    size: int
    """In bytes."""

    version: str | None = None
    """What tells its content from a later one; None: nothing does."""

    url: str | None = None
    """Where it comes from, without credentials."""

    @abstractmethod
    def read(self, offset: int, length: int) -> Data:
        """Return exactly ``length`` bytes, which all lie within the file. Any offset and length will do.

        Several threads may call it at the same time.

        Raises:
            Retry: It could not be had at this moment.
            Changed: It is another file by now. It stays so.
            Unavailable: It cannot be had, and this is why.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give up what is held. It is not read any more."""


class Slice(Source):
    """A range of another source: a stored member of an archive."""

    def __init__(self, whole: Source, name: str, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > whole.size:
            raise Refusal(f"{name} is said to be at {start}+{size}, but {whole.name} ends at {whole.size}")
        self._whole, self._start = whole, start
        self.name, self.size, self.version = name, size, whole.version
        self.url = f"{whole.url}#{name}"

    def read(self, offset: int, length: int) -> Data:
        """Return the same range of the whole, moved."""
        return self._whole.read(self._start + offset, length)


def patiently(do: Callable[[], Answer], seconds: float) -> Answer:
    """Return what ``do`` returns; while it raises ``Retry``, do it again, with growing pauses, for so long.

    For what reads while a source is opened, and for libraries that read a source on their own: there the framework,
    which does this for pagers, is not above it.

    Raises:
        Retry: It was still so at the end.
    """
    end, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while True:
        try:
            return do()
        except Retry as error:
            pause = max(pause, error.after or 0)
            if time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


class RangeFile(io.RawIOBase):
    """A source as a seekable binary file, for libraries that want one.

    Libraries make errors of their own of an exception that comes out of ``read``. ``failure`` is the first one, so that
    it is not lost; ``check`` raises it.
    """

    def __init__(self, source: Source, seconds: float = 10.0) -> None:
        super().__init__()
        self._source, self._seconds, self._at = source, seconds, 0
        self.failure: Exception | None = None

    def check(self) -> None:
        """Raise what a read has raised, once: the next read asks again."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it has a position."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, or what the file still has of it."""
        length = max(0, min(len(buffer), self._source.size - self._at))
        if length:
            try:
                data = patiently(lambda: self._source.read(self._at, length), self._seconds)
            except (Retry, Changed, Unavailable) as error:
                self.failure = self.failure or error
                raise OSError(str(error)) from error
            memoryview(buffer)[:length] = data
            self._at += length
        return length

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, or what the file still has."""
        length = self._source.size - self._at if size < 0 else size
        buffer = bytearray(max(0, min(length, self._source.size - self._at)))
        self.readinto(buffer)
        return bytes(buffer)


class KeptPieces:
    """Decompressed pieces, of which those that were used last are kept, up to so many bytes and at least one."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._lock = Lock()
        self._pieces: OrderedDict[object, bytes] = OrderedDict()

    def get(self, key: object) -> bytes | None:
        """Return the piece, if it was kept."""
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
            return self._pieces.get(key)

    def put(self, key: object, piece: bytes) -> None:
        """Keep a piece; those that were not used for the longest time may go for it."""
        with self._lock:
            self._bytes += len(piece) - len(self._pieces.pop(key, b""))
            self._pieces[key] = piece
            while self._bytes > self._most_bytes and len(self._pieces) > 1:
                self._bytes -= len(self._pieces.popitem(last=False)[1])


def short(error: object, most: int = 200) -> str:
    """Return the first line of what an exception says."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= most else line[: most - 3] + "..."
