"""Open VMO files: reads that may wait for a pager, and writes."""

from __future__ import annotations

import copy
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from vmofs.core.access import Access
from vmofs.core.children import is_resizable
from vmofs.core.content import Bytes
from vmofs.core.view import PagerView
from vmofs.core.vmo import PagerVmo
from vmofs.status import IoError, OutOfRangeError, VmoError
from vmofs.units import PageRange
from vmofs_mount.caller import Caller
from vmofs_mount.deadlocks import Reader
from vmofs_mount.direct_writes import DirectWrites
from vmofs_mount.engine import Engine
from vmofs_mount.failures import Failure, Failures, Retries, RetriesLeft, find_stale
from vmofs_mount.handles import Handle
from vmofs_mount.limits import Limits, Resource
from vmofs_mount.locked_directories import LockedDirectories
from vmofs_mount.mapped_stores import MappedStores
from vmofs_mount.mountinfo import Place
from vmofs_mount.nodes import VmoFile
from vmofs_mount.pagecache import DROP_SECONDS, PageCache
from vmofs_mount.processes import is_dying, thread_group

_KILL_SECONDS = 0.1
"""How often it is looked whether a process that only we can end was killed."""

_CUT_SECONDS = 0.02
"""How long after a truncation the reads that it cut off are answered."""

T = TypeVar("T")


class OpenVmos:
    """What the open files of all VMOs share: the processes that have them open, and the recent failures, by VMO."""

    def __init__(
        self,
        engine: Engine,
        cache: PageCache,
        spawn: Callable[..., None],
        place: Place,
        modified: Callable[[VmoFile], None],
        limits: Limits,
        stores: MappedStores,
        direct_writes: DirectWrites,
        content_changed: Callable[[VmoFile, Caller, bool], None],
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.stores = stores
        self.direct_writes = direct_writes
        self.content_changed = content_changed
        self.cache = cache
        self._spawn = spawn
        self._retries = Retries(place.minor)
        self._locked_directories = LockedDirectories(place.mountpoint, spawn)
        self.modified = modified
        self._open: dict[VmoFile, Counter[int]] = {}
        self._failures: dict[VmoFile, Failures] = {}

    def add(self, file: VmoFile, process: int) -> None:
        """Count an open file of a process."""
        self._open.setdefault(file, Counter())[process] += 1

    def remove(self, file: VmoFile, process: int) -> None:
        """Count it no longer."""
        processes = self._open[file]
        processes[process] -= 1
        if not processes[process]:
            del processes[process]
        if not processes:
            del self._open[file]
            self.cache.closed(file)

    async def failed(self, handle: VmoHandle, pages: PageRange, error: VmoError, suspects: list[Failure]) -> None:
        """Remember a failed read for the kernel's retries; ``suspects``: what ``suspects`` returned as it came."""
        file = handle.file
        stale_by = await find_stale(suspects)
        others = self._open.get(file, Counter())
        retries = await self._retries.count(
            handle.process, handle.flags, others, file.ino, pages, stale=stale_by is not None
        )
        self._remember(file, retries, pages, error, stale_by)

    def _remember(
        self, file: VmoFile, retries: RetriesLeft, pages: PageRange, error: VmoError, stale_by: Failure | None = None
    ) -> None:
        failures = self._failures.get(file)
        if failures is None:
            failures = self._failures[file] = Failures(partial(self.cache.drop_failed, file))
        self._spawn(self._expire, file, failures, failures.remember(retries, pages, error, stale_by))

    async def _expire(self, file: VmoFile, failures: Failures, failure: Failure) -> None:
        await failures.expire(failure)
        if not failures and self._failures.get(file) is failures:
            del self._failures[file]

    async def suspects(self, file: VmoFile, process: int, pages: PageRange) -> list[Failure]:
        """Return the failures whose pages may still be in the page cache where a READ begins.

        Raises:
            VmoError: that of the read that this one is a retry of.
        """
        failures = self._failures.get(file)
        if failures is None:
            return []
        failed = failures.recall(process, pages)
        if failed is not None:
            await failed.before_answer()
            raise copy.copy(failed.error)
        return failures.in_cache(pages)

    def supplied(self, file: VmoFile, filled: Iterable[PageRange]) -> None:
        """Forget failures of pages that are there now."""
        failures = self._failures.get(file)
        if failures is not None:
            for pages in filled:
                failures.forget(pages)

    def began(self, handle: VmoHandle, pages: PageRange) -> int | None:
        """Note that a READ waits for a pager; return what ``ended`` is to be given."""
        self._retries.began(handle.process)
        if handle.flags & os.O_DIRECT:  # locks no page of the cache
            return None
        return self.cache.begin_read(handle.file, pages)

    def ended(self, handle: VmoHandle, number: int | None) -> bool:
        """Note that the READ is about to be answered; return whether what it has may be older than a WRITE that was."""
        self._retries.ended(handle.process)
        return number is not None and self.cache.end_read(handle.file, number)

    async def run_unless_killed(self, access: Access[T], process: int, locked: VmoFile | None = None) -> T:
        """Carry out a call for a process that cannot die before it is answered; if it is killed, answer EINTR.

        ``locked`` is the file that the kernel has locked meanwhile, if any. If its directory gets locked too, because
        somebody who is about to remove the file waits for it, the answer is EINTR as well: most programs then simply
        make the call again.

        Raises:
            VmoError: the call failed.
            InterruptedError: the process was killed, or keeps everybody from a directory.
        """
        if not self.engine.start(access):
            watch = trio.CancelScope()
            with trio.CancelScope() as scope:
                self._spawn(self._watch, process, locked, watch, scope)
                try:
                    await self.engine.wait(access)
                finally:
                    watch.cancel()
            if scope.cancelled_caught:
                raise InterruptedError(errno.EINTR, f"process {process} was killed, or others must go on")
        return access.result()

    async def _watch(
        self, process: int, locked: VmoFile | None, watch: trio.CancelScope, waiting: trio.CancelScope
    ) -> None:
        with watch:
            while True:
                await trio.sleep(_KILL_SECONDS)
                killed = await trio.to_thread.run_sync(is_dying, process, abandon_on_cancel=True)
                directory = None if locked is None else locked.parent
                if killed or (directory is not None and await self._locked_directories.is_locked(directory)):
                    waiting.cancel()
                    return

    def killed(self, file: VmoFile, pages: PageRange) -> None:
        """Note that nobody waits for pages any more that are in the page cache without content."""
        self._remember(file, RetriesLeft({}), pages, IoError("the reader was killed"))

    def check(self) -> None:
        """Assert that files are counted as often as they are open."""
        assert all(processes.total() == file.open_count for file, processes in self._open.items())


class VmoHandle(Handle):
    """An open VMO file."""

    def __init__(self, file: VmoFile, flags: int, caller: Caller, opened: OpenVmos) -> None:
        super().__init__(file, flags, caller)
        self.file = file
        self.process = thread_group(caller.pid)
        self._opened = opened
        self._may_write = flags & os.O_ACCMODE != os.O_RDONLY
        self.is_mapped = False
        self._may_map = flags & os.O_ACCMODE == os.O_RDWR
        file.mapper_count += self._may_map
        file.writer_count += self._may_write
        file.writers_total += self._may_write
        opened.add(file, self.process)

    async def read(self, offset: int, size: int) -> Bytes:
        """Read up to the end of the content; ask the pager for what is absent, and wait."""
        vmo = self.file.vmo
        while (length := min(size, vmo.stream_size - offset)) > 0:
            data: Bytes | None = vmo.read_nowait(offset, length)
            try:
                if data is None:
                    data = await self._wait(offset, length)
                if data is None:
                    continue
            except OutOfRangeError:
                if offset + length <= vmo.stream_size:
                    raise
                # Cut off while we waited: what is left is the answer, as a read of a file that shrank. Not before the
                # kernel has acted on the answer to SETATTR, lest the reader gets zeros up to the old end.
                await trio.sleep(_CUT_SECONDS)
            else:
                if self._opened.cache.writes and not self.flags & os.O_DIRECT:
                    self._opened.cache.writes.note_read(self.file, PageRange.of_bytes(offset, length))
                return data
        return b""

    async def _wait(self, offset: int, length: int) -> Bytes | None:
        """Ask the pager, and wait; None if what came may be older than what was written meanwhile."""
        file, opened = self.file, self._opened
        pages = PageRange.of_bytes(offset, length)
        suspects = await opened.suspects(file, self.process, pages)
        opened.limits.take(Resource.REQUESTS, self.caller.uid)
        number = opened.began(self, pages)
        try:
            # O_DIRECT waits for its answer whatever happens to the process.
            killable = not (suspects or self.flags & os.O_DIRECT)
            data = await self._read_unless_killed(offset, length, pages, killable=killable)
        except OutOfRangeError:
            raise
        except VmoError as failure:
            await opened.failed(self, file.vmo.absent(pages), failure, suspects)
            raise
        finally:
            opened.limits.give(Resource.REQUESTS, self.caller.uid)
            outdated = opened.ended(self, number)
        return None if outdated else data

    async def _read_unless_killed(self, offset: int, length: int, pages: PageRange, *, killable: bool) -> Bytes:
        """Read. A process that is not ``killable`` waits in a READ that must be answered before it can die."""
        read: Access[Bytes] = self.file.vmo.read(offset, length)
        read.origin = Reader(self.process, self.file.ino, pages)
        if killable:
            return await self._opened.engine.run(read)
        try:
            return await self._opened.run_unless_killed(read, self.process)
        except InterruptedError:
            if not self.flags & os.O_DIRECT:
                self._opened.killed(self.file, pages)
            raise

    async def write(self, offset: int, data: bytes) -> int:
        """Write; absent pages are read from the pager first. Growing a VMO that cannot grow is ENOSPC."""
        cache = self._opened.cache
        pending = cache.writes.begin(self.file, PageRange.of_bytes(offset, len(data)))
        try:
            written = await self._write(offset, data)
        finally:
            cache.writes.end(pending)
        await cache.written(pending, DROP_SECONDS)
        if self.flags & os.O_DIRECT:
            await self._opened.direct_writes.written(self, self.file, pending.pages)
        # Who reads the same memory by another name sees it. Our own pages the kernel has: it may keep them locked.
        await cache.wait_dropped_everywhere(self.file.vmo, DROP_SECONDS, but=self.file)
        return written

    async def _write(self, offset: int, data: bytes) -> int:
        room = await self._make_room(offset, len(data))
        if self.file.vmo.node.windows or self.file.vmo.node.children:
            self._opened.content_changed(self.file, self.caller, False)
        await self._opened.stores.bring_in_source(self.file.vmo, offset, room)
        try:
            access: Access[int] = self.file.vmo.write(offset, data[:room])
            return await self._opened.run_unless_killed(access, self.process, self.file)
        except (VmoError, InterruptedError):
            # The page cache has what was refused, also what was stored through a mapping.
            self._opened.cache.drop(self.file, [PageRange.of_bytes(offset, len(data))])
            raise
        finally:
            self._opened.modified(self.file)  # a write that fails may have written a part

    async def _make_room(self, offset: int, length: int) -> int:
        """Grow the content to hold ``length`` bytes at ``offset``; return how many of them there is room for."""
        vmo = self.file.vmo
        end = offset + length
        if end <= vmo.stream_size:
            return length
        if is_resizable(vmo):
            await self._opened.run_unless_killed(vmo.set_size(end), self.process, self.file)
        elif isinstance(vmo, PagerVmo) and vmo.options.unbounded:
            await self._opened.run_unless_killed(vmo.set_stream_size(end), self.process, self.file)
        elif offset >= vmo.stream_size:
            raise OSError(errno.ENOSPC, f"{self.file.path} ends at {vmo.stream_size} and cannot grow")
        self._opened.cache.size_changed(vmo)
        return min(length, max(0, int(vmo.stream_size) - offset))

    async def fsync(self) -> None:
        """Wait until the pager has written back what is dirty now, if the VMO was made so."""
        vmo = self.file.vmo
        if isinstance(vmo, PagerView):
            vmo = vmo.of  # the same memory
        if isinstance(vmo, PagerVmo):
            await self._opened.run_unless_killed(vmo.sync(), self.process, self.file)

    def release(self) -> None:
        """Count the file as open no longer."""
        self.file.mapper_count -= self._may_map
        self.file.writer_count -= self._may_write
        self._opened.remove(self.file, self.process)
