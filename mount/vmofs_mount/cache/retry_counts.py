"""How often the kernel will try a failed READ again: counted by looking at who waits for it, in ``/proc``.

Why, and with what it is compared, stands in ``read_retries``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

import trio

from vmofs.units import PageRange
from vmofs_mount.cache.read_retries import RETRY_SECONDS, RetriesLeft
from vmofs_mount.cache.waiting_reads import WaitingRead, WaitingReads
from vmofs_mount.linux.procfs import Blocked, blocked_threads, descendants, has_mapped, reads_file
from vmofs_mount.loop.lanes import Lanes

_RETRIES_PER_LOOK = 4
"""A loaded machine takes longer: so many times as long as a look at who will try again took, the last time."""

_MAX_RETRY_SECONDS = 2.0

_RETRIES_OF_FAULT = 2
_RETRIES_OF_FAULT_ALONE = 1  # without read-ahead: its first READ is one that it waits for itself
_READS_OF_FAULT = 3
_RETRIES_OF_READ = 1
_LOOK_SECONDS = 1.0
_FALL_ASLEEP_SECONDS = 0.002
_LOOKS_AT_CHILDREN = 5


class Retries:
    """Counts the retries that will come by looking at who waits: ``reads``, and in ``/proc``."""

    def __init__(self, device_minor: int, reads: WaitingReads) -> None:
        self._device_minor = device_minor
        self._reads = reads
        self._looks: defaultdict[int, _Looks] = defaultdict(_Looks)  # by user
        self._lookers = Lanes(8)  # maps of processes in page faults may hold them up
        self._look_took = 0.0

    async def count(self, read: WaitingRead, others: Iterable[int], pages: PageRange, *, stale: bool) -> RetriesLeft:
        """Return how many retries each process will make of a failed READ, before that is answered.

        ``others`` are the processes that have the file open too, ``pages`` those that were not there.
        """
        handle = read.handle
        process, uid, ino = handle.process, handle.caller.uid, handle.file.ino
        if not handle.has_page_cache:
            return RetriesLeft({})
        others = set(others)  # as they are now: who opens the file while we look has nothing to try again
        with trio.move_on_after(_LOOK_SECONDS):
            seen = await self._look(uid, {process, *others})
            if not (stale or seen[process].reads or seen[process].faults):  # not yet asleep?
                await trio.sleep(_FALL_ASLEEP_SECONDS)
                seen = await self._look(uid, {process, *others})
            # The reader of a stale READ is not seen to wait for a page. If all its threads are, the page has gone, and
            # the READ is that of a new one, though we do not know of it yet.
            stale = stale and not seen[process].all_do
            left = {other: self._behind_lock(other, seen) for other in others if other != process}
            left[process] = await self._of_reader(uid, process, seen, ino, pages, stale=stale)
            return RetriesLeft(left, self._patience(), stale)
        return RetriesLeft({process: _RETRIES_OF_READ}, self._patience(), stale)  # the machine is very slow

    def _patience(self) -> float:
        return min(max(RETRY_SECONDS, _RETRIES_PER_LOOK * self._look_took), _MAX_RETRY_SECONDS)

    async def _look(self, uid: int, processes: set[int]) -> Mapping[int, Blocked]:
        """Look at processes; those of a user who ask while somebody looks share the next look."""
        looks = self._looks[uid]
        asked = looks.count
        async with looks.lock:
            # Unless another call has looked since this one asked, and at its processes too: that look is new enough.
            if looks.count == asked or not processes <= looks.seen.keys():
                looks.count += 1
                began = trio.current_time()
                try:
                    looks.seen = await self._lookers.run(uid, partial(_look_at, processes))
                finally:  # also if it took too long
                    self._look_took = trio.current_time() - began
            return looks.seen

    def _behind_lock(self, process: int, seen: Mapping[int, Blocked], *, stale: bool = False) -> int:
        """Return the retries of threads that wait for a page but have no READ of their own under way."""
        blocked = seen[process]
        waiting = max(0, blocked.reads + blocked.faults + stale - self._reads.count_of(process))
        faults = min(waiting, blocked.faults)
        return faults * _READS_OF_FAULT + (waiting - faults) * _RETRIES_OF_READ

    async def _of_reader(
        self, uid: int, process: int, seen: Mapping[int, Blocked], ino: int, pages: PageRange, *, stale: bool
    ) -> int:
        blocked = seen[process]
        if stale:  # the reader itself is not seen as blocked
            fault = blocked.asking or await self._may_have_inherited(uid, process, ino, pages)
            # A pread that met a stale page is not tried again by the kernel.
            own = _RETRIES_OF_FAULT if fault else 0
        elif blocked.faults or blocked.reads:
            own = _RETRIES_OF_READ if blocked.reads else _RETRIES_OF_FAULT
        elif blocked.asking:
            own = _RETRIES_OF_FAULT_ALONE
        elif await self._may_have_inherited(uid, process, ino, pages):
            own = await self._lookers.run(uid, lambda: _retries_of_child(process))
        else:
            own = _RETRIES_OF_READ
        return own + self._behind_lock(process, seen, stale=stale)

    async def _may_have_inherited(self, uid: int, process: int, ino: int, pages: PageRange) -> bool:
        """Return whether the reader may be a child with an inherited mapping: the process itself does not read."""
        return await self._lookers.run(
            uid, lambda: not reads_file(process, ino) and has_mapped(process, ino, self._device_minor, pages)
        )


class _Looks:
    """The last look for one user, and how many there were."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.count = 0
        self.seen: dict[int, Blocked] = {}


def _look_at(processes: set[int]) -> dict[int, Blocked]:
    return {process: blocked_threads(process) for process in processes}


def _retries_of_child(process: int) -> int:
    """Return the retries of a page fault of some child of a process."""
    for _ in range(_LOOKS_AT_CHILDREN):
        blocked = [blocked_threads(child) for child in descendants(process)]
        if not blocked or any(child.faults for child in blocked):
            return _RETRIES_OF_FAULT
        if any(child.asking for child in blocked):
            return _RETRIES_OF_FAULT_ALONE
        time.sleep(_FALL_ASLEEP_SECONDS)
    return _RETRIES_OF_FAULT
