"""Open VMO files: reads that may wait for a pager, and writes."""

from __future__ import annotations

import copy
import errno
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import trio

from vmofs.core.pages.content import Bytes
from vmofs.core.requests.access import Access
from vmofs.core.vmos.vmo import PagerView, PagerVmo
from vmofs.status import BadStateError, IoError, OutOfRangeError, VmoError
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count
from vmofs_mount.cache.direct_writes import DirectWrites
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.cache.read_retries import Failure, Failures, Retries, RetriesLeft, find_stale
from vmofs_mount.cache.sequences import Sequence
from vmofs_mount.cache.taken_writes import TakenWrites
from vmofs_mount.files.kernel_sizes import KernelSizes
from vmofs_mount.files.open_files import Handle, content_changed
from vmofs_mount.linux.caller import Caller
from vmofs_mount.linux.mountinfo import Place
from vmofs_mount.linux.procfs import thread_group, writes_file
from vmofs_mount.loop.engine import Engine
from vmofs_mount.tree.inodes import VmoFile
from vmofs_mount.tree.limits import Resource
from vmofs_mount.tree.tree import Tree
from vmofs_mount.waits.kill_watch import KillWatch
from vmofs_mount.waits.locked_directories import LockedDirectories
from vmofs_mount.waits.read_watch import LetGoError, ReadWatch, WaitingRead
from vmofs_mount.waits.self_deadlock import Reader

T = TypeVar("T")

STORE_SECONDS = 1.0
"""How long an open for writing waits for a store into the page cache: one that a waiting READ holds up is undone."""


class OpenVmos:
    """What the open files of all VMOs share: the processes that have them open, and the recent failures, by VMO."""

    def __init__(
        self,
        engine: Engine,
        cache: PageCache,
        stores: MappedStores,
        tree: Tree,
        place: Place,
        spawn: Callable[..., None],
    ) -> None:
        self.engine = engine
        self.tree = tree
        self.limits = tree.limits
        self.stores = stores
        self.direct_writes = DirectWrites(cache)
        self.cache = cache
        self._open: dict[VmoFile, Counter[int]] = {}
        self._failures: dict[VmoFile, Failures] = {}
        self._spawn = spawn
        self._retries = Retries(place.minor)
        self.directories = LockedDirectories(place.mountpoint, spawn)
        self._killed = KillWatch(spawn)
        self.taken = TakenWrites(cache, spawn)
        self._looker = trio.CapacityLimiter(8)
        self.reads = ReadWatch(engine, spawn, self.directories, self._killed, self._open)
        self.sizes = KernelSizes(place, spawn)

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
            handle.process,
            handle.flags,
            others,
            file.ino,
            pages,
            stale=stale_by is not None,
            uid=handle.caller.uid,
        )
        self._remember(file, retries, pages, error, stale_by if retries.stale else None)

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

    def has_failures(self, file: VmoFile) -> bool:
        """Return whether ``suspects`` may have anything to say."""
        return file in self._failures

    async def suspects(self, file: VmoFile, process: int, pages: PageRange) -> list[Failure]:
        """Return the failures whose pages may still be in the page cache where a READ begins.

        Raises:
            VmoError: that of the read that this one is a retry of.
        """
        failures = self._failures[file]
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

    def began(self, handle: VmoHandle, pages: PageRange, read: WaitingRead) -> int | None:
        """Note that a READ waits for a pager; return what ``ended`` is to be given."""
        self._retries.began(handle.process)
        self.reads.began(handle.file, read)
        return self.cache.begin_read(handle.file, pages) if read.has_locked else None

    def ended(self, handle: VmoHandle, number: int | None, read: WaitingRead) -> bool:
        """Note that the READ is about to be answered; return whether what it has may be older than a WRITE that was."""
        self._retries.ended(handle.process)
        self.reads.ended(handle.file, read)
        return number is not None and self.cache.end_read(handle.file, number)

    async def set_size(self, file: VmoFile, size_bytes: int, caller: Caller) -> None:
        """Cut or extend a VMO for a thread (truncate, ftruncate); may wait for the pager.

        Raises:
            VmoError: as the VMO's ``set_size``.
            LetGoError: as ``run_unless_killed``.
        """
        await self.stores.bring_in_for_size(file, size_bytes)
        process = thread_group(caller.pid)
        await self.wait_until_written(file, process)
        self.cache.size_changed(file.vmo)  # while this waits for a pager, the size has changed already
        try:
            await self.run_unless_killed(file.vmo.set_size(size_bytes), process, file)
        finally:
            self.cache.size_changed(file.vmo)
        await self.cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS, but=file)
        await self.wait_until_unread(file, process)  # last: none may begin before the answer
        self.reads.size_answered(file, caller.pid)
        content_changed(self.cache, file, caller, own=False)
        self.tree.modified(file)

    async def wait_writable(self, file: VmoFile) -> None:
        """Wait until what is being stored into the page cache cannot undo what somebody writes who has just opened."""
        await self.cache.wait_stored(file, STORE_SECONDS)

    async def run_counted(self, access: Access[T], handle: VmoHandle, locked: VmoFile | None = None) -> T:
        """Do as ``run_unless_killed`` does, and count what waits as a request of whoever opened the file.

        Raises:
            VmoError: the call failed; NO_MEMORY, he has too many.
            LetGoError: as ``run_unless_killed``.
        """
        if self.engine.start(access):
            return access.result()
        self._count(access, handle.caller.uid)
        try:
            return await self.run_unless_killed(access, handle.process, locked, is_started=True)
        finally:
            self.limits.give(Resource.REQUESTS, handle.caller.uid)

    def _count(self, access: Access[T], uid: int) -> None:
        """Count a call that waits as a request of a user, or end it.

        Raises:
            NoMemoryError: there are too many; the call has ended.
        """
        try:
            self.limits.take(Resource.REQUESTS, uid)
        except VmoError:
            with self.engine.change():
                access.cancel()
            raise

    async def write(self, access: Access[int], handle: VmoHandle, offset: int, data: bytes) -> int:
        """Do as ``run_counted`` does for a WRITE of a file that may be mapped.

        If it is to be let go, it is taken, unless it must be that of a ``write``, whose caller learns that it failed.

        Raises:
            VmoError: as ``run_counted``.
            LetGoError: as ``run_counted``, for a ``write``.
        """
        file, uid = handle.file, handle.caller.uid
        if self.taken.over(file, PageRange.of_bytes(offset, len(data))):
            self.limits.take(Resource.REQUESTS, uid)
            return self.taken.take(file, offset, data, partial(self._carry_out, access, uid))
        if self.engine.start(access):
            return access.result()
        self._count(access, uid)
        over = trio.Event()
        self._spawn(self._wait, access, uid, over)
        try:
            await self._unless_killed(over.wait, handle.process, file)
        except LetGoError:
            if await self._is_of_write(file, handle.process) and not access.done:
                self.engine.abort(access, BadStateError("it was let go"))
                raise
            if not access.done:

                async def result() -> None:
                    await over.wait()
                    access.result()

                return self.taken.take(file, offset, data, result)
        return access.result()

    async def _is_of_write(self, file: VmoFile, process: int) -> bool:
        """Return whether the only WRITE of a file that waits is that of a ``write`` of a process."""
        return self.cache.writes.count(file) == 1 and await trio.to_thread.run_sync(
            writes_file, process, file.ino, limiter=self._looker
        )

    async def _carry_out(self, access: Access[int], uid: int) -> None:
        try:
            await self.engine.run(access)
        finally:
            self.limits.give(Resource.REQUESTS, uid)

    async def _wait(self, access: Access[int], uid: int, over: trio.Event) -> None:
        try:
            await self.engine.wait(access)
        finally:
            self.limits.give(Resource.REQUESTS, uid)
            over.set()

    async def wait_until_written(self, file: VmoFile, process: int) -> None:
        """Wait until all WRITEs that were taken are carried out, as ``run_unless_killed`` does.

        Raises:
            LetGoError: the process was killed, or keeps everybody from a directory.
        """
        if self.taken.over(file, ALL_PAGES):
            await self._unless_killed(partial(self.taken.wait_over, file), process, file)

    async def run_unless_killed(
        self, access: Access[T], process: int, locked: VmoFile | None = None, *, is_started: bool = False
    ) -> T:
        """Carry out a call for a process that cannot die before it is answered; if it is killed, answer EINTR.

        ``locked`` is the file that the kernel has locked meanwhile, if any. If its directory gets locked too, because
        somebody who is about to remove the file waits for it, the answer is EINTR as well: most programs then simply
        make the call again.

        Raises:
            VmoError: the call failed.
            LetGoError: the process was killed, or keeps everybody from a directory.
        """
        if not (access.done if is_started else self.engine.start(access)):
            await self._unless_killed(partial(self.engine.wait, access), process, locked)
        return access.result()

    async def wait_until_unread(self, file: VmoFile, process: int) -> None:
        """Wait until no READ of a file has pages locked, as ``run_unless_killed`` does.

        Raises:
            LetGoError: the process was killed, or keeps everybody from a directory.
        """
        if self.reads.waits(file):
            await self._unless_killed(partial(self.reads.wait_until_free, file), process, file)

    async def _unless_killed(self, wait: Callable[[], Awaitable[None]], process: int, locked: VmoFile | None) -> None:
        with trio.CancelScope() as scope:
            self._killed.add(scope, process, scope.cancel)
            try:
                with nullcontext() if locked is None else self.directories.watch(locked, scope.cancel):
                    await wait()
            finally:
                self._killed.remove(scope)
        if scope.cancelled_caught:
            raise LetGoError(f"process {process} was killed, or others must go on")

    def killed(self, file: VmoFile, pages: PageRange) -> None:
        """Note that nobody waits for pages any more that are in the page cache without content."""
        self._remember(file, RetriesLeft({}), pages, IoError("the reader was killed"))

    def check(self) -> None:
        """Assert that files are counted as often as they are open."""
        self.taken.check()
        assert all(processes.total() == file.open_count for file, processes in self._open.items())
        self.reads.check()


class VmoHandle(Handle):
    """An open VMO file."""

    def __init__(self, file: VmoFile, flags: int, caller: Caller, opened: OpenVmos) -> None:
        super().__init__(file, flags, caller)
        self.file = file
        self.process = thread_group(caller.pid)
        self._opened = opened
        self._may_write = flags & os.O_ACCMODE != os.O_RDONLY
        self._sequence = Sequence()
        self.is_mapped = False
        self._may_map = flags & os.O_ACCMODE == os.O_RDWR
        file.maybe_cached = True
        file.mapper_count += self._may_map
        file.writer_count += self._may_write
        file.writers_total += self._may_write
        opened.add(file, self.process)
        opened.reads.watch(file)

    async def read(self, offset: int, size: int) -> Bytes:
        """Read up to the end of the content; ask the pager for what is absent, and wait.

        Raises:
            OutOfRangeError: it was cut off, and the kernel does not get to know that.
        """
        vmo = self.file.vmo
        self._note_read(offset, size)
        while True:
            end = min(offset + size, vmo.stream_size)
            data: Bytes | None = b"" if end <= offset else vmo.read_nowait(offset, end - offset)
            if data is None:
                data = await self._wait(offset, end - offset)
            if data is None or end > vmo.stream_size:
                continue  # it may be older than what was written meanwhile, or reaches beyond the end
            if offset + size > end and self._is_filled_up(offset + size):
                if not await self._opened.sizes.wait_known(self.file):
                    raise OutOfRangeError(f"{offset}+{size} was cut off: {self.file.path} ends at {vmo.stream_size}")
                if min(offset + size, vmo.stream_size) != end:
                    continue  # the size has changed again
            if self._opened.taken:
                data = self._opened.taken.overlay(self.file, offset, data)
            if end > offset and self._opened.cache.writes and not self.flags & os.O_DIRECT:
                self._opened.cache.writes.note_read(self.file, PageRange.of_bytes(offset, end - offset))
            return data

    def _note_read(self, offset: int, size: int) -> None:
        """Store what a program that reads in sequence is about to come to; tell the pager of marked pages."""
        ahead = self._sequence.read(offset, offset + size)
        if ahead is not None and not self.flags & os.O_DIRECT:
            self._opened.cache.store_ahead(self.file, ahead)
        if self.file.vmo.node.source.marked is not None:
            with self._opened.engine.change():
                self.file.vmo.touch(PageRange.of_bytes(offset, size))

    def _is_filled_up(self, asked: int) -> bool:
        """Return whether the kernel asked for a page behind the last one: it would fill it with zeros, and show them.

        With O_DIRECT too: what is missing is then read by way of the page cache.
        """
        return asked > page_count(self.file.vmo.stream_size) * PAGE_SIZE

    async def _wait(self, offset: int, length: int) -> Bytes | None:
        """Ask the pager, and wait; None if what came may be older than what was written, or cut off, meanwhile."""
        file, opened = self.file, self._opened
        pages = PageRange.of_bytes(offset, length)
        suspects = await opened.suspects(file, self.process, pages) if opened.has_failures(file) else []
        opened.limits.take(Resource.REQUESTS, self.caller.uid)
        access: Access[Bytes] = file.vmo.read(offset, length)
        access.origin = Reader(self.process, file.ino, pages, self.caller.uid)
        read = WaitingRead(access, self.process, has_locked=not self.flags & os.O_DIRECT, again=bool(suspects))
        number = opened.began(self, pages, read)
        try:
            data = await opened.engine.run(access)
        except LetGoError:
            if read.has_locked:
                opened.killed(file, pages)
            raise
        except OutOfRangeError:
            if offset + length <= file.vmo.stream_size:
                raise
            return None
        except VmoError as failure:
            await opened.failed(self, file.vmo.absent(pages), failure, suspects)
            raise
        finally:
            opened.limits.give(Resource.REQUESTS, self.caller.uid)
            outdated = opened.ended(self, number, read)
        return None if outdated else data

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
            content_changed(self._opened.cache, self.file, self.caller, own=False)
        await self._opened.stores.bring_in_source(self.file.vmo, offset, room)
        try:
            data = data[:room]
            access: Access[int] = self.file.vmo.write(offset, data)
            if self.file.mapper_count:
                return await self._opened.write(access, self, offset, data)
            return await self._opened.run_counted(access, self, self.file)
        except VmoError:
            # The page cache has what was refused, also what was stored through a mapping.
            self._opened.cache.drop(self.file, [PageRange.of_bytes(offset, len(data))])
            raise
        finally:
            self._opened.tree.modified(self.file)  # a write that fails may have written a part

    async def _make_room(self, offset: int, length: int) -> int:
        """Grow the content to hold ``length`` bytes at ``offset``; return how many of them there is room for."""
        vmo = self.file.vmo
        end = offset + length
        if end <= vmo.stream_size:
            return length
        if vmo.resizable:
            await self._opened.run_counted(vmo.set_size(end), self, self.file)
        elif isinstance(vmo, PagerVmo) and vmo.node.options.unbounded:
            await self._opened.run_counted(vmo.set_stream_size(end), self, self.file)
        elif offset >= vmo.stream_size:
            raise OSError(errno.ENOSPC, f"{self.file.path} ends at {vmo.stream_size} and cannot grow")
        self._opened.cache.size_changed(vmo, but=self.file)  # ours the kernel knows when the write is answered
        return min(length, max(0, int(vmo.stream_size) - offset))

    async def fsync(self) -> None:
        """Wait until the pager has written back what is dirty now, if the VMO was made so."""
        await self._opened.wait_until_written(self.file, self.process)
        self._opened.taken.raise_failure(self.file)
        vmo = self.file.vmo
        if isinstance(vmo, PagerView):
            vmo = vmo.of  # the same memory
        if isinstance(vmo, PagerVmo):
            await self._opened.run_counted(vmo.sync(), self, self.file)

    def release(self) -> None:
        """Count the file as open no longer."""
        self.file.mapper_count -= self._may_map
        self.file.writer_count -= self._may_write
        self._opened.remove(self.file, self.process)
