"""Page requests as they come from a FIFO, each of which must be answered.

A request is a context: what was not supplied when its block ends is failed, with the status of the exception that ended
it if that is a ``VmoError``, else with IO. One that is simply dropped is failed too, as soon as Python notices, with a
warning. So no reader waits for the deadline because a pager forgot one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vmofs.client.fifo import Fifo
from vmofs.client.pager import Data
from vmofs.status import Status, VmoError
from vmofs.vocabulary import NOTES, PacketCommand
from vmofs.wire.packets import RequestLine

_TOP = "vmo/"


class Answering(Protocol):
    """A VMO, as much of it as answers need."""

    def supply(self, offset: int, data: Data) -> None:
        """Supply whole pages."""

    def fail(self, offset: int, length: int, status: Status = Status.IO) -> None:
        """End the requests in a range with a status."""

    def dirty(self, offset: int, length: int) -> None:
        """Let those write who wait for that."""


class Request:
    """One request: READ is supplied, DIRTY allowed, WRITEBACK written back; or failed. Notes need no answer."""

    def __init__(self, line: RequestLine, vmo: Answering) -> None:
        self.command, self.key, self.offset, self.length, self.path = line
        self.vmo = vmo
        self._low, self._high = self.offset, self.offset + self.length
        self._is_open = line.command not in NOTES

    @property
    def is_answered(self) -> bool:
        """Whether nobody waits for it any more, as far as is known here."""
        return not self._is_open

    def supply(self, data: Data, offset: int | None = None) -> None:
        """Supply pages, from the start of the request on if no offset is given; they may be more than was asked for.

        Supplied in several pieces, it is answered when they were given in order, up or down.
        """
        start = self.offset if offset is None else offset
        self.vmo.supply(start, data)
        end = start + -(-len(data) // 4096) * 4096  # the last page of the file may be short
        if start <= self._low:
            self._low = max(self._low, end)
        elif end >= self._high:
            self._high = min(self._high, start)
        self._is_open = self._is_open and self._low < self._high

    def allow(self) -> None:
        """Answer DIRTY: let those write who wait."""
        self.vmo.dirty(self.offset, self.length)
        self._is_open = False

    def done(self) -> None:
        """Say that it was answered by other means, with commands of the VMO."""
        self._is_open = False

    def fail(self, status: Status = Status.IO) -> None:
        """End it with a status, as far as it was not supplied."""
        self._is_open = False
        self.vmo.fail(self._low, self._high - self._low, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_open:
            self.fail(error.status if isinstance(error, VmoError) else Status.IO)

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            with suppress(OSError, VmoError):  # the pager, the file or the mount is gone, and with it who waits
                self.fail()
            warnings.warn(f"{self!r} was forgotten, and is failed", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"Request({self.command} {self.path} {self.offset}+{self.length})"


class Requests:
    """The requests of one port, one after the other, until the pager is closed. A context, closed at its end.

    Args:
        path: The FIFO.
        vmo: What gives the VMO of a name.
    """

    def __init__(self, path: Path, vmo: Callable[[str], Answering]) -> None:
        self._fifo = Fifo(path)
        self._vmo = vmo
        self._vmos: dict[tuple[int, str], Answering] = {}
        self._lines: list[RequestLine] = []

    def next(self, seconds: float | None = None) -> Request | None:
        """Return the next request, or None at the end.

        Raises:
            TimeoutError: There was none for ``seconds``.
        """
        while not self._lines:
            lines = self._fifo.wait(seconds)
            if lines is None:
                return None
            if not lines and seconds is not None:
                raise TimeoutError(f"no request within {seconds} s")
            self._lines = lines[::-1]
        return self.buffered()

    def buffered(self) -> Request | None:
        """Return the next of those that were read from the FIFO already, or None."""
        line = self._lines.pop() if self._lines else None
        return line and Request(line, self._vmo_of(line))

    def fileno(self) -> int:
        """Return the descriptor of the FIFO, for who waits by other means; ``next(0)`` is what to call then."""
        return self._fifo.fileno()

    def _vmo_of(self, line: RequestLine) -> Answering:
        """Return the VMO, the same for requests of the same; what is open of it stays open."""
        who = line.key, line.path
        if line.command is PacketCommand.COMPLETE:
            return self._vmos.pop(who, None) or self._vmo(line.path.removeprefix(_TOP))
        if who not in self._vmos:
            self._vmos[who] = self._vmo(line.path.removeprefix(_TOP))
        return self._vmos[who]

    def close(self) -> None:
        """Close the FIFO; who reads it next gets what was not answered."""
        self._fifo.close()

    def __iter__(self) -> Iterator[Request]:
        while (request := self.next()) is not None:
            yield request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
