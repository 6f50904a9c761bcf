"""Reads from a pager without a mount: what a program would get, failures, read-ahead and all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vmofs.client.pager import Data, Object, Pager
from vmofs.client.policy.statistics import Statistics
from vmofs.client.service import Entry, Piece, Read, Service, Task, terms_of
from vmofs.status import Status, TimedOutError, VmoError
from vmofs.units import PAGE_SIZE

_GRACE_SECONDS = 5.0


class _Pages:
    """The pages of one object that are there, and what became of those that were asked for."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.pages: dict[int, bytes] = {}
        self.failures: dict[int, tuple[Status, str]] = {}

    def supply(self, offset: int, data: Data) -> None:
        """Keep pages, unless they are there."""
        view = memoryview(data)
        with self.condition:
            for at in range(0, len(view), PAGE_SIZE):
                self.pages.setdefault(offset + at, bytes(view[at : at + PAGE_SIZE]))
            self.condition.notify_all()

    def supply_many(self, pieces: Sequence[Piece]) -> int:
        """Keep the pages of several pieces."""
        for piece in pieces:
            self.supply(*piece)
        return len(pieces)

    def fail(self, offset: int, length: int, status: Status, sentence: str) -> None:
        """Note a failure for those who wait."""
        with self.condition:
            self.failures.update((at, (status, sentence)) for at in range(offset, offset + length, PAGE_SIZE))
            self.condition.notify_all()

    def close(self) -> None:
        """Nothing is open."""


class _Queue:
    """Where requests come from."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: deque[Read | Task] = deque()
        self._woken = False

    def ask(self, request: Read) -> None:
        """Hand a request over."""
        with self._condition:
            self._requests.append(request)
            self._condition.notify_all()

    def wait(self, seconds: float | None) -> list[Read | Task]:
        """Return what came; see ``Inlet``."""
        with self._condition:
            self._condition.wait_for(lambda: self._requests or self._woken, seconds)
            self._woken = False
            requests = list(self._requests)
            self._requests.clear()
            return requests

    def wake(self) -> None:
        """Let ``wait`` return."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()


class Reading:
    """A pager that answers, without a mount. A context.

    Args:
        pager: Whose objects are read.
        hard: As of ``vmofs.client.serve``.
    """

    def __init__(self, pager: Pager, *, hard: bool = False) -> None:
        self._queue = _Queue()
        self._terms = terms_of(pager, hard=hard)
        self._service = Service(pager, self._queue, self._terms)
        self._objects = {obj.name: obj for obj in pager.objects()}
        self._entries: dict[str, tuple[Entry, _Pages]] = {}
        self._service.start()

    @property
    def objects(self) -> list[Object]:
        """What the pager has."""
        return list(self._objects.values())

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        return self._service.statistics

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object, as ``pread`` of its file would: fewer at its end.

        Raises:
            KeyError: There is no such object.
            VmoError: A page cannot be had; the subclass of its status, with the sentence.
        """
        entry, pages = self._entry(name)
        size = entry.obj.size
        end = size if length is None else min(offset + length, size)
        wanted = range(offset // PAGE_SIZE * PAGE_SIZE, end, PAGE_SIZE) if offset < end else range(0)
        with pages.condition:
            missing = [at for at in wanted if at not in pages.pages]
            for at in missing:
                pages.failures.pop(at, None)
        if missing:
            self._queue.ask(Read(entry, missing[0], missing[-1] + PAGE_SIZE))
            self._wait(pages, missing)
        whole = b"".join(pages.pages[at] for at in wanted)
        return whole[offset - wanted.start : max(0, end - wanted.start)]

    def evict(self, name: str) -> None:
        """Forget the pages of an object, as a mount does when memory is short."""
        _, pages = self._entry(name)
        with pages.condition:
            pages.pages.clear()

    def close(self) -> None:
        """End."""
        self._service.stop()

    def _entry(self, name: str) -> tuple[Entry, _Pages]:
        if name not in self._entries:
            pages = _Pages()
            self._entries[name] = self._service.entry(self._objects[name], pages), pages
        return self._entries[name]

    def _wait(self, pages: _Pages, missing: list[int]) -> None:
        until = time.monotonic() + self._terms.deadline + _GRACE_SECONDS
        with pages.condition:
            pages.condition.wait_for(
                lambda: all(at in pages.pages or at in pages.failures for at in missing),
                None if until == float("inf") else until - time.monotonic(),
            )
            for at in missing:
                if at not in pages.pages:
                    if at not in pages.failures:
                        raise TimedOutError(f"the page at {at} was not answered within the deadline")
                    raise VmoError.of(*pages.failures[at])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read(pager: Pager, name: str, offset: int = 0, length: int | None = None, *, hard: bool = False) -> bytes:
    """Return bytes of an object of a pager, as a program would get them that reads its file.

    Raises:
        KeyError: There is no such object.
        VmoError: A page cannot be had; the subclass of its status, with the sentence.
    """
    with Reading(pager, hard=hard) as reading:
        return reading.read(name, offset, length)
