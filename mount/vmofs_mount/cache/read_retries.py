"""A short memory of failed reads, for the kernel's own retries.

The kernel asks again before it tells a reader that a page failed. Measured (Linux 6.18, read-ahead of one page): a
pread sends 2 READs, the second for its first page only; a page fault sends 3, or 2 if nothing is read ahead for it, as
after MADV_RANDOM and after 100 misses of mappings of one open file; O_DIRECT sends 1. Each further thread
that waited for the page's lock in the kernel sends 1 of its own, 3 for a page fault (the fault is tried under the lock
of the mapping, under that of the address space, and a last time). A retry must get the error of the access that it
belongs to and raise no request; the next real access must raise one: a failure is never the state of a page.

Nothing in a READ tells the two apart. But a retry comes soon, from a file that was open when the access failed, and
how many will come can be counted: while the failure is not yet answered, those who wait for it stand still.

The failed page stays in the page cache, not up to date, and further accesses of it would go through a synchronous READ
that cannot be killed, and that a pread does not retry. So once the retries are over it is dropped from the page cache.
The drop begins before the last retry is answered, and waits for the lock that this holds: so who comes again at once
seldom meets the page. A READ that came before the page went all the same is called stale. One that comes while the drop
is under way is stale if the drop does not end before the READ: then it waits for the lock that the READ holds. It may
get it between that READ and its retries, or between two of them; then there is one READ more, as the page is brought
into the cache again (seen by the kernel's trace events). Some are not seen: a page fault that meets the page while it
is just being dropped reads it without read-ahead, and tries three times.

After a time-out the pager is known to be stuck, and everybody who waited behind the page's lock would wait for another
deadline: such a failure holds for ``RETRY_SECONDS``, however often it is met.
"""

# Rules
#
# 1. A failure is no state of a page. It is remembered until the retries that were counted have come, or its time is up.
# 2. A failure that was recalled is awaited (`before_answer`), and then the READ is answered with its error. No other
#    await stands in between.
# 3. A failure leaves `_recent` before its drop begins, and `_in_cache` when its page has gone from the page cache.
# 4. No two failures of a VMO have a page in common. `remember` forgets older ones.
# 5. A READ with O_DIRECT has no retries.
#
# How it works
#
#     READ fails --> `Retries.count`: /proc, in a thread --> `Failures.remember` --> the error is the answer
#                                                                 |
#     READ comes --> `Failures.recall`: one less is left <--------+
#                        | the last one                           | time is up
#                        v                                        v
#                    `over` --> `expire`: the page is dropped; `drop_begun` lets the last retry be answered
#
# To count too few raises a second request: the pager is asked twice for one access. To count too many gives the next
# access the error of the one before. Both were measured, see "Failures and the kernel's retries" in mount/SEMANTICS.md.
#
# What is not nice
#
# It is a guess from what /proc shows in one moment, by constants of one kernel (Linux 6.18). Its times were changed
# several times: to wait for as long as those run who will try again was tried, and taken back. Nothing in the protocol
# would tell a retry from an access.
#
# What else changes with this file
#
# retry_counts.py beside it; files/failed_reads.py; `PageCache.drop_failed`; `blocked_threads`, `reads_file` and
# `has_mapped` in linux/procfs.py. Tests: tests/trio/test_failures.py, tests/fuse/test_failures.py. A
# change of the constants needs a run of the latter with VMOFS_NIGHTLY=1.

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import trio

from vmofs.status import Status, VmoError
from vmofs.units import PageRange

RETRY_SECONDS = 0.25
"""How long a retry may take to arrive, at least."""

_DROP_SECONDS = 0.02  # a drop that no lock holds up takes 0.1 ms
_BEGIN_SECONDS = 0.02  # a thread for it is there in 0.1 ms
_LATE_SECONDS = 0.005  # after which at most we know of a drop that has ended before


class RetriesLeft(NamedTuple):
    """How many retries each process will make, and within how many seconds.

    ``stale``: the READ met the page of an older failure, and its reader is the one that waits for it.
    """

    of: dict[int, int]
    seconds: float = RETRY_SECONDS
    stale: bool = False


class Failure:
    """One failed READ: pages, error, and how many more READs of each process are retries of it, for so many seconds."""

    __slots__ = (
        "drop_begun",
        "dropped",
        "dropping",
        "error",
        "extra",
        "left",
        "over",
        "pages",
        "seconds",
        "settled",
        "shares_drop_of",
    )

    def __init__(
        self, pages: PageRange, error: VmoError, retries: RetriesLeft, shares_drop_of: Failure | None = None
    ) -> None:
        self.pages = pages
        self.error = error
        self.left = retries.of
        self.extra = False  # one more, of whichever process
        self.seconds = RETRY_SECONDS if error.status is Status.TIMED_OUT else retries.seconds
        self.shares_drop_of = shares_drop_of
        self.over = trio.Event()
        self.drop_begun = trio.Event()
        self.settled = trio.Event()
        self.dropping = False
        self.dropped = False
        # Without a retry to come it is over at once: `expire` drops the page as soon as it runs.
        if self._is_met:
            self.over.set()

    @property
    def _is_met(self) -> bool:
        """Whether no retry is left."""
        return not (self.extra or any(self.left.values()))

    def page_went(self) -> None:
        """Note that an older drop got the page between two READs: who tries again brings it back, by one READ more."""
        self.shares_drop_of = None
        self.extra = True

    async def before_answer(self) -> None:
        """Before a retry is answered: if it is the last one, it is over; wait until the drop has begun."""
        if self._is_met and self.shares_drop_of is not None:
            with trio.move_on_after(_LATE_SECONDS):
                await self.shares_drop_of.settled.wait()
        if self._is_met:
            # The page may go. The retry holds the lock of the page, so the drop begins and waits for its answer.
            self.over.set()
            with trio.move_on_after(_BEGIN_SECONDS):
                await self.drop_begun.wait()


class Failures:
    """The recent failures of one VMO. Processes are known by numbers.

    No two of them have a page in common, and none has more than one READ can ask for (256): so they are found by their
    pages, for a pager that is closed fails all who wait at once, and they may be 50,000.

    ``drop(pages, begun)`` drops pages from the page cache and returns True, or leaves them because a READ waits for
    them. It is called when the retries of a failure are over, and calls ``begun`` when it is about to wait for the
    pages.
    """

    __slots__ = ("_drop", "_in_cache", "_recent")

    def __init__(self, drop: Callable[[PageRange, Callable[[], None]], Awaitable[bool]]) -> None:
        self._recent: set[Failure] = set()
        self._in_cache: dict[int, Failure] = {}  # page -> the failure that left it in the page cache
        self._drop = drop

    def remember(self, retries: RetriesLeft, pages: PageRange, error: VmoError, stale_by: Failure | None) -> Failure:
        """Note that a READ of ``pages`` failed, and how many retries each process will make.

        A drop that is under way for ``stale_by`` waits for this READ. Another one could meet the page of the next.
        """
        self.forget(pages)
        failure = Failure(pages, error, retries, stale_by if stale_by is not None and stale_by.dropping else None)
        self._recent.add(failure)
        self._in_cache.update(dict.fromkeys(range(*pages), failure))
        return failure

    async def expire(self, failure: Failure) -> None:
        """Forget a failure when all readers have had their retries, or time is up."""
        with trio.move_on_after(failure.seconds):
            await failure.over.wait()
        # Forgotten meanwhile: its pages were supplied, or failed again.
        if failure not in self._recent:
            return
        self._recent.discard(failure)
        failure.dropping = True
        try:
            if failure.shares_drop_of is None:
                failure.dropped = await self._drop(failure.pages, failure.drop_begun.set)
            else:
                # Another failure drops this page already, and waits for the same lock.
                failure.drop_begun.set()
                await failure.shares_drop_of.settled.wait()
                failure.dropped = failure.shares_drop_of.dropped
        finally:
            failure.dropping = False
            failure.drop_begun.set()
            if failure.dropped:
                for other in self._over(failure.pages):
                    # It counted on this drop to come after its retries. The page went before them.
                    if other.shares_drop_of is failure and other in self._recent:
                        other.page_went()
                self._leave_cache(failure)
            failure.settled.set()

    def __bool__(self) -> bool:
        """Return whether anything is remembered."""
        return bool(self._in_cache)

    def in_cache(self, pages: PageRange) -> list[Failure]:
        """Return the failures whose pages may still be in the page cache where a READ that just came begins."""
        failure = self._in_cache.get(pages.start)
        return [] if failure is None else [failure]

    def recall(self, process: int, pages: PageRange) -> Failure | None:
        """Return the failure that a READ of ``pages`` for a process is a retry of, if any; it then has one less.

        Its ``before_answer`` is to be called, and then the READ to be answered.
        """
        for failure in self._over(pages):
            if failure not in self._recent:
                continue
            # Not counted: the pager is stuck, and each of those behind the page would wait for another deadline.
            if failure.error.status is Status.TIMED_OUT:
                return failure
            if failure.left.get(process, 0) > 0:
                failure.left[process] -= 1
                return failure
            if failure.extra and process in failure.left:
                failure.extra = False
                return failure
        return None

    def forget(self, pages: PageRange) -> None:
        """Drop what is known about pages that were supplied, or failed again."""
        for failure in self._over(pages):
            self._leave_cache(failure)
            if failure in self._recent:
                self._recent.discard(failure)
                failure.over.set()
                failure.drop_begun.set()

    def _over(self, pages: PageRange) -> list[Failure]:
        """Return the failures that have a page in common with ``pages``, which may be all of a large VMO."""
        # A supply of a whole VMO may be 2^51 pages; then the failures are gone through instead.
        if pages.pages > len(self._in_cache):
            return [failure for failure in dict.fromkeys(self._in_cache.values()) if failure.pages & pages]
        return list(dict.fromkeys(failure for page in range(*pages) if (failure := self._in_cache.get(page))))

    def _leave_cache(self, failure: Failure) -> None:
        """Note that the pages of a failure are in the page cache no more."""
        for page in range(*failure.pages):
            if self._in_cache.get(page) is failure:
                del self._in_cache[page]


async def find_stale(suspects: Iterable[Failure]) -> Failure | None:
    """Return the failure whose page a READ met in the page cache; ``suspects`` is ``in_cache`` as the READ came."""
    for failure in suspects:
        if failure.dropping:
            with trio.move_on_after(_DROP_SECONDS):
                await failure.settled.wait()
        # Its page is in the cache still, so the READ that has just failed met it there.
        if not failure.dropped:
            return failure
    return None
