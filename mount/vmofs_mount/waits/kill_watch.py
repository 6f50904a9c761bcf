"""Who was killed, of all the processes that wait in the kernel for an answer of ours and cannot end before it comes.

The kernel tells a filesystem by FUSE_INTERRUPT, but pyfuse3 does not hand that on. So ``/proc`` is looked at now and
then: one look for all who wait, or many of them would take all time.
"""

from __future__ import annotations

from collections.abc import Callable

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
