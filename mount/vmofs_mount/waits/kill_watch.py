"""Who was killed, of the processes that cannot end before an answer of ours comes, where the kernel says nothing.

It tells by FUSE_INTERRUPT that somebody has a signal who waits for the answer to a request: the first signal, and not
that it kills him. It does not tell of those who wait for an asynchronous read or write, which they may have begun with
O_DIRECT, or for an ``fsync`` that was submitted by libaio, nor of those who wait while what was stored through a
mapping is written back. So of these ``/proc`` is looked at now and then: one look for all, or many of them would take
all time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import trio

from vmofs_mount.linux.procfs import is_dying

KILL_SECONDS = 0.1
"""How often it is looked whether a process was killed that only we can end."""

_REST_PER_LOOK = 10
"""With many processes a look takes long; so many times as long the next one is waited for."""

_MOST_AT_ONCE = 128
"""Calls that are let go in one turn."""


class KillWatch:
    """The calls that wait, by process. Tasks run in ``spawn``'s nursery."""

    def __init__(self, spawn: Callable[..., None]) -> None:
        self._spawn = spawn
        self._calls: dict[object, tuple[int, Callable[[], None]]] = {}
        self._is_looking = False
        self._soon = trio.Event()
        self._looker = trio.CapacityLimiter(1)

    def add(self, call: object, process: int, let_go: Callable[[], None]) -> None:
        """Have ``let_go`` called when the process of a call was killed; again and again, until ``remove``."""
        self._calls[call] = (process, let_go)
        if not self._is_looking:
            self._is_looking = True
            self._spawn(self._look)

    @contextmanager
    def watch(self, process: int | None, let_go: Callable[[], None]) -> Iterator[None]:
        """Do as ``add`` does, if there is a process to watch, and ``remove`` when this is left."""
        if process is None:
            yield
            return
        call = object()
        self.add(call, process, let_go)
        try:
            yield
        finally:
            self.remove(call)

    @contextmanager
    def watch_interrupted(
        self, interruptible: Callable[[Callable[[int], None]], AbstractContextManager[None]], let_go: Callable[[], None]
    ) -> Iterator[None]:
        """Call ``let_go`` if a caller is killed of whom FUSE_INTERRUPT (``interruptible``) tells that he has a signal.

        The kernel tells of the first signal only, so he is watched from then on. One who cannot be seen from here
        counts as killed, or nobody could end him.
        """
        call = object()

        def interrupted(thread: int) -> None:
            if thread:
                self.add(call, thread, let_go)
                self.look()
            else:
                let_go()

        try:
            with interruptible(interrupted):
                yield
        finally:
            self._calls.pop(call, None)

    def remove(self, call: object) -> None:
        """Forget a call that is about to be answered."""
        del self._calls[call]

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._calls)

    def look(self) -> None:
        """Look at once."""
        self._soon.set()

    async def _look(self) -> None:
        pause = KILL_SECONDS
        try:
            while self._calls:
                with trio.move_on_after(pause):
                    await self._soon.wait()
                self._soon = trio.Event()
                began = trio.current_time()
                processes = {process for process, _ in self._calls.values()}
                dying = await trio.to_thread.run_sync(_dying, processes, limiter=self._looker, abandon_on_cancel=True)
                theirs = [call for call, (process, _) in self._calls.items() if process in dying]
                for number, call in enumerate(theirs, start=1):
                    if call in self._calls:  # not answered meanwhile
                        self._calls[call][1]()
                    if number % _MOST_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                pause = max(KILL_SECONDS, _REST_PER_LOOK * (trio.current_time() - began))
        finally:
            self._is_looking = False


def _dying(processes: set[int]) -> set[int]:
    """Return those of the processes that were killed. In a worker thread."""
    return set(filter(is_dying, processes))
