"""Who removes, renames or links a file that waits for a pager, and so keeps everybody from its directory.

That a directory is locked (``locked_directories``) does not say who has it locked, or why. On a machine without a CPU
to spare it may be somebody who is about to let it go, and the probe may sleep for a page of the daemon's own memory. A
call that is let go ends with EINTR, and programs that are told so by ``fsync`` may give up for good. So first somebody
has to be seen who waits for the lock of a file with a directory locked: the kernel names the function.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from vmofs_mount.linux.procfs import anybody_waits_in

_MOVING = {"vfs_unlink", "vfs_rename", "lock_two_nondirectories", "vfs_link"}
"""They are called with the directories locked, and wait for the lock of the file."""

_UNEXPLAINED_SECONDS = 3.0
"""How long a directory may be locked while nobody is seen to be the reason. He may not be visible from here. After that
time the calls are let go all the same."""

_PAUSE_SECONDS = 0.1
"""A directory that is not seen locked for so long was let go meanwhile."""

_REST_PER_LOOK = 2
"""With many processes a look costs much: 50 us for a thread. So many times as long the next one is waited for."""


class Movers:
    """Lets calls go whose directory is locked, if somebody moves a file. Tasks run in ``spawn``'s nursery."""

    def __init__(self, spawn: Callable[..., None]) -> None:
        self._spawn = spawn
        self._seen: dict[Callable[[], None], tuple[float, float]] = {}  # locked from when to when
        self._looker = trio.CapacityLimiter(1)
        self._is_looking = False
        self._next_look = 0.0

    def directory_locked(self, let_go: Callable[[], None]) -> None:
        """Learn, again and again, that the directory of a call is locked: it is let go once somebody is found."""
        now = trio.current_time()
        since, last = self._seen.get(let_go, (now, now))
        self._seen[let_go] = (since if now - last < _PAUSE_SECONDS else now, now)
        if not self._is_looking and now >= self._next_look:
            self._is_looking = True
            self._spawn(self._look)

    async def _look(self) -> None:
        began = trio.current_time()
        try:
            found, cost = await trio.to_thread.run_sync(_find, limiter=self._looker, abandon_on_cancel=True)
            self._next_look = trio.current_time() + _REST_PER_LOOK * cost
            for let_go, (since, last) in list(self._seen.items()):
                # Those that are new were seen locked while it was looked: the next look is for them.
                if last >= began - _PAUSE_SECONDS and (found or last - since > _UNEXPLAINED_SECONDS):
                    let_go()
                if last < began:
                    del self._seen[let_go]
        finally:
            self._is_looking = False


def _find() -> tuple[bool, float]:
    """Return whether anybody moves a file, and how much CPU time it took to find that out. In a worker thread."""
    began = time.thread_time()
    found = anybody_waits_in(_MOVING)
    return found, time.thread_time() - began
