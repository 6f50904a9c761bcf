"""The READs of all VMO files that failed a moment ago: what the kernel's own retries are told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from vmofs.status import IoError, VmoError
from vmofs.units import PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.cache.read_retries import Failure, Failures, RetriesLeft, find_stale
from vmofs_mount.cache.retry_counts import Retries
from vmofs_mount.cache.waiting_reads import WaitingRead
from vmofs_mount.tree.inodes import VmoFile


class FailedReads:
    """The recent failures, by file. Tasks run in ``spawn``'s nursery.

    ``openers`` are the processes that have each file open, if any.
    """

    def __init__(
        self,
        cache: PageCache,
        device_minor: int,
        openers: Mapping[VmoFile, Iterable[int]],
        spawn: Callable[..., None],
    ) -> None:
        self._cache = cache
        self._openers = openers
        self._spawn = spawn
        self._retries = Retries(device_minor, cache.reads)
        self._failures: dict[VmoFile, Failures] = {}

    def __contains__(self, file: VmoFile) -> bool:
        """Return whether ``suspects`` may have anything to say."""
        return file in self._failures

    async def add(self, read: WaitingRead, pages: PageRange, error: VmoError, suspects: list[Failure]) -> None:
        """Remember a failed READ for the kernel's retries; ``suspects``: what ``suspects`` returned as it came."""
        stale_by = await find_stale(suspects)
        openers = self._openers.get(read.handle.file, ())
        retries = await self._retries.count(read, openers, pages, stale=stale_by is not None)
        self._remember(read.handle.file, retries, pages, error, stale_by if retries.stale else None)

    def killed(self, read: WaitingRead) -> None:
        """Note that nobody waits for pages any more that are in the page cache without content."""
        self._remember(read.handle.file, RetriesLeft({}), read.pages, IoError("the reader was killed"))

    def _remember(
        self, file: VmoFile, retries: RetriesLeft, pages: PageRange, error: VmoError, stale_by: Failure | None = None
    ) -> None:
        failures = self._failures.get(file)
        if failures is None:
            failures = self._failures[file] = Failures(partial(self._cache.drop_failed, file))
        self._spawn(self._expire, file, failures, failures.remember(retries, pages, error, stale_by))

    async def _expire(self, file: VmoFile, failures: Failures, failure: Failure) -> None:
        await failures.expire(failure)
        if not failures and self._failures.get(file) is failures:
            del self._failures[file]

    async def suspects(self, read: WaitingRead) -> list[Failure]:
        """Return the failures whose pages may still be in the page cache where a READ begins.

        Raises:
            VmoError: that of the read that this one is a retry of.
        """
        failures = self._failures.get(read.handle.file)
        if failures is None:
            return []
        failed = failures.recall(read.handle.process, read.pages)
        if failed is not None:
            await failed.before_answer()
            raise copy.copy(failed.error)
        return failures.in_cache(read.pages)

    def supplied(self, file: VmoFile, filled: Iterable[PageRange]) -> None:
        """Forget failures of pages that are there now."""
        failures = self._failures.get(file)
        if failures is not None:
            for pages in filled:
                failures.forget(pages)
