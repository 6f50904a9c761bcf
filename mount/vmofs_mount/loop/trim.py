"""What the daemon keeps only to be fast, it gives back to the machine when nobody has wanted anything for a while."""

from __future__ import annotations

import ctypes
import time

import trio

from vmofs.core.pages.frames import Frames
from vmofs_mount.loop.scheduler import Turns

_LOOK_SECONDS = 2.0
_LITTLE_SECONDS = 0.04
"""Of processor time. If it took less since the last look, the daemon is idle; if less since it gave back, it has
nothing to give."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _pad: None)  # glibc's; others have nothing like it


class Idleness:
    """Looks now and then whether the daemon is idle, and gives free memory back then.

    That is free frames, the buffers of workers that have nothing to do, and what the allocator keeps of what was freed.
    """

    def __init__(self, frames: Frames, turns: Turns) -> None:
        self._frames = frames
        self._turns = turns

    async def run(self) -> None:
        """Look until cancelled."""
        now = given_back = 0.0
        while True:
            before, now = now, time.process_time()
            if now - before < _LITTLE_SECONDS <= now - given_back:
                self._give_back()
                now = given_back = time.process_time()
            await trio.sleep(_LOOK_SECONDS)

    def _give_back(self) -> None:
        self._frames.cool()
        self._turns.retire_idle()
        _malloc_trim(0)
