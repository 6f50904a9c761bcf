"""A short memory of failed reads, for the kernel's own retries.

The kernel asks again before it tells a reader that a page failed. Measured (Linux 6.18, read-ahead of one page): a
pread sends 2 READs, the second for its first page only; a page fault sends 3; O_DIRECT sends 1. Each further reader
who waited for the page's lock in the kernel sends 1 of his own. A retry must get the error of the access that it
belongs to and raise no request; the next real access must raise one: a failure is never the state of a page.

Nothing in a READ tells the two apart. But a retry comes from a file that was open when the access failed, and soon,
and how many will come is known from whether the process has the pages mapped.

The failed page stays in the page cache, not up to date, and further accesses of it would go through a synchronous READ
that cannot be killed, and be retried once less. So once the retries are over it is dropped from the page cache. A READ
that comes while that is under way may have been made before or after the page went. It went before if the drop ends
while the READ is pending; otherwise the drop waits for the lock that the READ holds.

After a time-out the pager is known to be stuck, and everybody who waited behind the page's lock would wait for another
deadline: such a failure holds for ``RETRY_SECONDS``, however often it is met.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from vmofs.status import Status, VmoError
from vmofs.units import PageRange
from vmofs_mount.caller import Caller

RETRY_SECONDS = 0.25
"""How long a retry may take to arrive; a loaded machine needs some of it."""

_RETRIES_OF_FAULT = 2
_RETRIES_OF_READ = 1
_LOOK_SECONDS = 0.1
_DROP_SECONDS = 0.005  # a drop that no lock holds up takes 0.1 ms


class _Failure:
    """One failed READ: pages, error, and how many more READs of each open file are retries of it."""

    __slots__ = ("error", "left", "over", "pages")

    def __init__(self, pages: PageRange, error: VmoError, left: dict[int, int]) -> None:
        self.pages = pages
        self.error = error
        self.left = left
        self.over = trio.Event()


class Failures:
    """The recent failures of one VMO. Open files are known by numbers.

    ``drop(pages)`` drops pages from the page cache; it is called when the retries of a failure are over.
    """

    __slots__ = ("_drop", "_dropping", "_recent")

    def __init__(self, drop: Callable[[PageRange], Awaitable[None]]) -> None:
        self._recent: list[_Failure] = []
        self._dropping: dict[_Failure, trio.Event] = {}
        self._drop = drop

    def remember(self, number: int, retries: int, others: Iterable[int], pages: PageRange, error: VmoError) -> _Failure:
        """Note that a READ of ``pages`` by the open file ``number`` failed while ``others`` were open too."""
        left = dict.fromkeys(others, _RETRIES_OF_READ) | {number: retries}
        self.forget(pages)
        failure = _Failure(pages, error, left)
        self._recent.append(failure)
        return failure

    async def expire(self, failure: _Failure) -> None:
        """Forget a failure when its reader has had his retries, or time is up."""
        with trio.move_on_after(RETRY_SECONDS):
            await failure.over.wait()
        if failure not in self._recent:
            return
        self._recent.remove(failure)
        dropped = self._dropping[failure] = trio.Event()
        try:
            await self._drop(failure.pages)
        finally:
            dropped.set()
            del self._dropping[failure]

    async def is_stale(self, pages: PageRange) -> bool:
        """Return whether a READ that just came is for a page that failed before and is still in the page cache."""
        for failure, dropped in list(self._dropping.items()):
            if pages.start in failure.pages:
                with trio.move_on_after(_DROP_SECONDS):
                    await dropped.wait()
                return not dropped.is_set()
        return False

    def recall(self, number: int, pages: PageRange) -> VmoError | None:
        """Return the error if a READ of ``pages`` by an open file is a retry of a failed one; it then has one less."""
        for failure in self._recent:
            if not failure.pages & pages:
                continue
            if failure.error.status is Status.TIMED_OUT:
                return failure.error
            if failure.left.get(number, 0) > 0:
                failure.left[number] -= 1
                if not any(failure.left.values()):
                    failure.over.set()
                return failure.error
        return None

    def forget(self, pages: PageRange) -> None:
        """Drop what is known about pages that were supplied, or failed again."""
        for failure in [failure for failure in self._recent if failure.pages & pages]:
            self._recent.remove(failure)
            failure.over.set()


async def count_retries(caller: Caller, flags: int, ino: int, device_minor: int, pages: PageRange) -> int:
    """Return how many retries the kernel will make of a failed READ from a file that ``caller`` opened."""
    if flags & os.O_DIRECT:
        return 0
    mapped = False
    with trio.move_on_after(_LOOK_SECONDS):
        # In a thread: this takes the memory lock of a process that may be waiting for us.
        mapped = await trio.to_thread.run_sync(
            _has_mapped, caller.pid, ino, device_minor, pages, abandon_on_cancel=True
        )
    return _RETRIES_OF_FAULT if mapped else _RETRIES_OF_READ


def _has_mapped(pid: int, ino: int, device_minor: int, pages: PageRange) -> bool:
    """Return whether a process has one of the pages of a file mapped."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in maps.splitlines():
        addresses, _, offset, device, inode, *_ = line.split()
        if int(inode) == ino and int(device.partition(":")[2], 16) == device_minor:
            start, _, end = addresses.partition("-")
            length = int(end, 16) - int(start, 16)
            if PageRange.of_bytes(int(offset, 16), length) & pages:
                return True
    return False
