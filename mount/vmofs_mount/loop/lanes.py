"""Threads that may have to wait for a lock that a user has: as many for each user, and never only as many in all.

Of one pool for everybody, whoever holds enough locks could take all threads, and others would wait for him.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import trio

T = TypeVar("T")


class Lanes:
    """Runs calls in worker threads: at most ``threads`` at the same time for each key, others wait for their turn.

    The key says who can keep the lock that the call may wait for. A lane is made when it is needed and goes when it is
    idle. A call that is cancelled is abandoned: it keeps its place until it has returned.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lanes: dict[Hashable, trio.CapacityLimiter] = {}
        self._waiting: dict[Hashable, int] = {}  # calls, those that are carried out too

    async def run(self, key: Hashable, call: Callable[[], T]) -> T:
        """Carry out a call in a thread and return its result."""
        lane = self._lanes.get(key)
        if lane is None:
            self._forget_idle()
            lane = self._lanes[key] = trio.CapacityLimiter(self._threads)
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            return await trio.to_thread.run_sync(call, limiter=lane, abandon_on_cancel=True)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    def _forget_idle(self) -> None:
        idle = [key for key, lane in self._lanes.items() if key not in self._waiting and not lane.borrowed_tokens]
        for key in idle:
            del self._lanes[key]

    def __len__(self) -> int:
        """Return for how many keys there is a lane."""
        return len(self._lanes)
