"""What an author of a pager writes: which objects there are, and how a range of one is read.

Everything else is done by who runs the pager: names, requests, pieces, read-ahead, threads, deadlines, retries, errors.
The whole of a pager::

    class Squares(Pager):
        def objects(self):
            return [Object("squares", 1_000_000)]

        def read(self, obj, offset, length):
            return bytes(n * n % 251 for n in range(offset, offset + length))

A method may be a coroutine function: ``async def read``. One that is not runs in a thread, several at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Data: TypeAlias = bytes | bytearray | memoryview
"""What a read returns."""


class Retry(Exception):  # noqa: N818 - it is what to do, as StopIteration is
    """It could not be had at this moment: it is tried again, later and later, within the deadline.

    Args:
        sentence: What happened, for the log.
        after: How many seconds the source asked to wait (an HTTP ``Retry-After``), or None.
    """

    def __init__(self, sentence: str = "", *, after: float | None = None) -> None:
        super().__init__(sentence)
        self.after = after


class Changed(Exception):  # noqa: N818 - what happened to the object
    """The object is no longer what was promised.

    From now on each of its pages that is not there yet is EBADMSG, without asking again. Pages that are there stay.
    """


class Unavailable(Exception):  # noqa: N818 - as Retry
    """It cannot be had now: EIO. That is not remembered, the next access asks again. The sentence says why."""


@dataclass(frozen=True)
class Object:
    """A file that a pager serves."""

    name: str
    """Its path below ``vmo/``. Any characters but NUL; missing directories are made."""

    size: int
    """In bytes."""

    version: str | None = None
    """What tells this content from a later one; shown as ``user.vmofs.version``. A read of another raises Changed."""

    source: str | None = None
    """Where it comes from, a URL without credentials; shown as ``user.vmofs.source``."""

    mode: int = 0o444
    """Permission bits."""


class Pager:
    """Says what objects there are, and reads ranges of them.

    Only ``objects`` and ``read`` must be there. What a method raises fails the pages that were asked for with EIO, and
    nothing else, unless it is one of ``Retry``, ``Changed``, ``Unavailable``. The attributes may be set in the class or
    in the instance.
    """

    cluster: int | None = None
    """Bytes that are read for a page that somebody waits for; None: as many as pays, 4 KiB to 128 KiB."""

    ahead: int | None = None
    """How many bytes are read ahead of a reader at most; 0: none; None: up to 32 MiB."""

    threads: int = 16
    """How many reads go on at the same time: threads, or tasks of a pager whose ``read`` is a coroutine function."""

    deadline: float = 10.0
    """Seconds within which a request is answered, retries and all."""

    def objects(self) -> Iterable[Object]:
        """Return what there is. It is asked once, at the start."""
        raise NotImplementedError

    def read(self, obj: Object, offset: int, length: int) -> Data | Awaitable[Data]:
        """Return exactly ``length`` bytes, which all lie within the object.

        ``offset`` is a multiple of 4096, and so is ``length`` unless the range ends with the object. Another number of
        bytes is an error of the pager: EIO.

        Raises:
            Retry: Try it again within the deadline.
            Changed: The object is another one by now.
            Unavailable: It cannot be had, and this is why.
        """
        raise NotImplementedError

    def read_many(self, obj: Object, ranges: Sequence[tuple[int, int]]) -> Sequence[Data] | Awaitable[Sequence[Data]]:
        """Return what ``read`` would for each (offset, length). For sources that are asked once for several ranges.

        It is called instead of ``read`` when several ranges of an object are wanted at the same moment, if a pager
        has it.
        """
        raise NotImplementedError

    def write_back(self, obj: Object, offset: int, data: Data) -> Awaitable[None] | None:
        """Store what was written to the file. A pager that has it may have objects with write permission (``mode``).

        When all of it has returned the pages count as clean, and ``fsync`` returns: return when the data is safe.
        """
        raise NotImplementedError

    def set_size(self, obj: Object, size: int) -> Awaitable[None] | None:
        """Learn the size that a written file has now; called before its data is written back."""

    def close(self, obj: Object) -> None:
        """Learn that nobody has the object any more: its file was removed, and nobody has it open."""

    def hint(self, obj: Object) -> Iterable[tuple[int, int]]:  # noqa: ARG002 - for who has a better answer
        """Return ranges (offset, length) that readers of the object will want first; read after the first request."""
        return ()
