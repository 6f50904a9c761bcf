"""Open VMO files: reads that may wait for a pager, and writes."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from vmofs.core.requests.access import Access
from vmofs.core.requests.request import SourceState
from vmofs.core.vmos.vmo import PagerView, PagerVmo
from vmofs.status import VmoError
from vmofs.units import ALL_PAGES, PageRange
from vmofs_mount.cache.direct_writes import DirectWrites
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.cache.read_ahead import ReadAhead
from vmofs_mount.cache.sequences import Sequence
from vmofs_mount.cache.taken_writes import TakenWrites
from vmofs_mount.files.failed_reads import FailedReads
from vmofs_mount.files.kernel_sizes import KernelSizes
from vmofs_mount.files.open_files import Handle, content_changed
from vmofs_mount.files.vmo_reads import Delivery, Replies, VmoReads
from vmofs_mount.linux.caller import Caller
from vmofs_mount.linux.place import Place
from vmofs_mount.linux.procfs import thread_group
from vmofs_mount.loop.engine import Engine
from vmofs_mount.tree.inodes import VmoFile
from vmofs_mount.tree.limits import Resource
from vmofs_mount.tree.tree import Tree
from vmofs_mount.waits.kill_watch import KillWatch
from vmofs_mount.waits.locked_directories import LockedDirectories
from vmofs_mount.waits.movers import Movers
from vmofs_mount.waits.read_watch import LetGoError, ReadWatch

T = TypeVar("T")

STORE_SECONDS = 1.0
"""How long an open for writing waits for a store into the page cache: one that a waiting READ holds up is undone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What files need of others.

    Where tasks are started, where answers go, by whom misses are delivered, and how far the kernel reads ahead.
    """

    spawn: Callable[..., None]
    replies: Replies
    delivery: Delivery
    read_ahead: ReadAhead


class OpenVmos:
    """What the open files of all VMOs share: the processes that have them open, what waits, and what failed."""

    def __init__(
        self,
        engine: Engine,
        cache: PageCache,
        stores: MappedStores,
        tree: Tree,
        place: Place,
        surroundings: Surroundings,
    ) -> None:
        spawn = surroundings.spawn
        self.engine = engine
        self.tree = tree
        self.limits = tree.limits
        self.stores = stores
        self.direct_writes = DirectWrites(cache)
        self.cache = cache
        self._open: dict[VmoFile, Counter[int]] = {}
        self._spawn = spawn
        self._read_ahead = surroundings.read_ahead
        self.directories = LockedDirectories(place, spawn)
        self._killed = KillWatch(spawn)
        self._movers = Movers(spawn)
        self.taken = TakenWrites(cache, spawn)
        self.watch = ReadWatch(engine, spawn, self.directories, self._killed, self._open, cache.reads)
        self.sizes = KernelSizes(place, spawn)
        self.failures = FailedReads(cache, place.minor, self._open, spawn)
        self.reads = VmoReads(self, surroundings)

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

    def about_to_answer(self, file: VmoFile) -> None:
        """Have the kernel read ahead in a file as far as that is to be: its OPEN is about to be answered."""
        # While it has a pager its pages may be evicted: a page that is there would wait for one that went.
        asks_nobody = file.vmo.source.state is not SourceState.ATTACHED
        self._read_ahead.opened(file.reading.readahead_bytes, asks_nobody=asks_nobody)

    async def set_size(self, file: VmoFile, size_bytes: int, caller: Caller) -> None:
        """Cut or extend a VMO for a thread (truncate, ftruncate); may wait for the pager.

        Raises:
            VmoError: as the VMO's ``set_size``.
            LetGoError: as ``run``.
        """
        await self.stores.bring_in_for_size(file, size_bytes)
        await self.wait_until_written(file)
        self.cache.size_changed(file.vmo)  # while this waits for a pager, the size has changed already
        try:
            await self.run(file.vmo.set_size(size_bytes), file)
        finally:
            self.cache.size_changed(file.vmo)
        await self.cache.wait_dropped_everywhere(file.vmo, DROP_SECONDS, but=file)
        if self.cache.reads.waits(file):  # last: none may begin before the answer
            await self._unless_let_go(partial(self.watch.wait_until_free, file), file)
        self.watch.size_answered(file, caller.pid)
        content_changed(self.cache, file, caller, own=False)
        self.tree.modified(file)

    async def wait_writable(self, file: VmoFile) -> None:
        """Wait until what is being stored into the page cache cannot undo what somebody writes who has just opened."""
        with trio.CancelScope() as scope, self._killed.watch_interrupted(self.engine.interruptible, scope.cancel):
            await self.cache.wait_stored(file, STORE_SECONDS)

    async def wait_until_written(self, file: VmoFile, process: int | None = None) -> None:
        """Wait until all WRITEs that were taken are carried out; ``process`` as in ``run_counted``.

        Raises:
            LetGoError: as ``run``.
        """
        if self.taken.over(file, ALL_PAGES):
            await self._unless_let_go(partial(self.taken.wait_over, file), file, process)

    async def run(self, access: Access[T], file: VmoFile) -> T:
        """Carry out a call that nobody can be killed in before it is answered. It is let go with EINTR if need be.

        The kernel has the file locked meanwhile. If its directory gets locked too, because somebody who is about to
        remove the file waits for it, the answer is EINTR as well: most programs then simply make the call again.

        Raises:
            VmoError: the call failed.
            LetGoError: who made it was killed, or keeps everybody from a directory.
        """
        if not self.engine.start(access):
            await self._unless_let_go(partial(self.engine.wait, access), file)
        return access.result()

    async def run_counted(self, access: Access[T], handle: VmoHandle, process: int | None = None) -> T:
        """Do as ``run`` does, and count what waits as a request of whoever opened the file.

        ``process``: whose death the kernel does not tell.

        Raises:
            VmoError: the call failed; NO_MEMORY, he has too many.
            LetGoError: as ``run``.
        """
        if self.engine.start(access):
            return access.result()
        self._count(access, handle.caller.uid)
        try:
            await self._unless_let_go(partial(self.engine.wait, access), handle.file, process or handle.watched_process)
        finally:
            self.limits.give(Resource.REQUESTS, handle.caller.uid)
        return access.result()

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

    async def write_back(self, access: Access[int], handle: VmoHandle, offset: int, data: bytes) -> int:
        """Carry out a WRITE of what was stored through a mapping. If it has to be let go, it is taken.

        Raises:
            VmoError: the call failed; NO_MEMORY, whoever opened the file has too many.
        """
        file, uid = handle.file, handle.caller.uid
        if self.engine.start(access):
            return access.result()
        self._count(access, uid)
        over = trio.Event()
        self._spawn(self._wait, access, uid, over)
        try:
            # Nobody waits for it of whom the kernel would tell; but who closes or unmaps the file waits behind it.
            await self._unless_let_go(over.wait, file, handle.process)
        except LetGoError:
            if not access.done:

                async def result() -> None:
                    await over.wait()
                    access.result()

                return self.taken.take(file, offset, data, result)
        return access.result()

    def write_behind(self, access: Access[int], handle: VmoHandle, offset: int, data: bytes) -> int:
        """Take a WRITE because others of the same pages were taken and are not carried out yet: the last one wins.

        Raises:
            NoMemoryError: whoever opened the file has too many.
        """
        uid = handle.caller.uid
        self.limits.take(Resource.REQUESTS, uid)
        return self.taken.take(handle.file, offset, data, partial(self._carry_out, access, uid))

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

    async def _unless_let_go(
        self, wait: Callable[[], Awaitable[None]], file: VmoFile, process: int | None = None
    ) -> None:
        """Wait for something with a file locked; ``process``: whose death the kernel does not tell.

        Raises:
            LetGoError: who waits was killed, or others must go on.
        """
        with (
            trio.CancelScope() as scope,
            self.directories.watch(file, partial(self._movers.directory_locked, partial(scope.cancel))),
            self._killed.watch_interrupted(self.engine.interruptible, scope.cancel),
            self._killed.watch(process, scope.cancel),
        ):
            await wait()
        if scope.cancelled_caught:
            raise LetGoError(f"{file.path}: who waited was killed, or others must go on")

    def check(self) -> None:
        """Assert that files are counted as often as they are open."""
        self.taken.check()
        assert all(processes.total() == file.open_count for file, processes in self._open.items())


class VmoHandle(Handle):
    """An open VMO file."""

    def __init__(self, file: VmoFile, flags: int, caller: Caller, opened: OpenVmos) -> None:
        super().__init__(file, flags, caller)
        self.file = file
        self.process = thread_group(caller.pid)
        self._opened = opened
        self._may_write = flags & os.O_ACCMODE != os.O_RDONLY
        self.sequence = Sequence()
        self._may_map = flags & os.O_ACCMODE == os.O_RDWR
        file.maybe_cached = True
        file.mapper_count += self._may_map
        file.writer_count += self._may_write
        file.writers_total += self._may_write
        self.has_page_cache = not flags & os.O_DIRECT
        # Who waits for an asynchronous write, which only O_DIRECT makes of one, is not told of by FUSE_INTERRUPT.
        self.watched_process = None if self.has_page_cache else self.process
        opened.add(file, self.process)
        opened.watch.watch(file)

    async def write(self, offset: int, data: bytes) -> int:
        """Write; absent pages are read from the pager first. Growing a VMO that cannot grow is ENOSPC."""
        written = await self._write_noted(offset, data, is_stored=False)
        if not self.has_page_cache:
            await self._opened.direct_writes.written(self.file, PageRange.of_bytes(offset, len(data)))
        # Who reads the same memory by another name sees it. Our own pages the kernel has: it may keep them locked.
        await self._opened.cache.wait_dropped_everywhere(self.file.vmo, DROP_SECONDS, but=self.file)
        return written

    async def write_back(self, offset: int, data: bytes) -> int:
        """Write what was stored through a mapping."""
        written = await self._write_noted(offset, data, is_stored=True)
        await self._opened.cache.wait_dropped_everywhere(self.file.vmo, DROP_SECONDS, but=self.file)
        return written

    async def _write_noted(self, offset: int, data: bytes, *, is_stored: bool) -> int:
        """Write, and see to it that what READs bring meanwhile is dropped."""
        cache = self._opened.cache
        pending = cache.writes.begin(self.file, PageRange.of_bytes(offset, len(data)))
        try:
            written = await self._write(offset, data, is_stored=is_stored)
        finally:
            cache.writes.end(pending)
        await cache.written(pending, DROP_SECONDS)
        return written

    async def _write(self, offset: int, data: bytes, *, is_stored: bool) -> int:
        room = await self._make_room(offset, len(data))
        if self.file.vmo.node.windows or self.file.vmo.node.children:
            content_changed(self._opened.cache, self.file, self.caller, own=False)
        await self._opened.stores.bring_in_source(self.file.vmo, offset, room)
        try:
            data = data[:room]
            access: Access[int] = self.file.vmo.write(offset, data)
            if self._opened.taken.over(self.file, PageRange.of_bytes(offset, len(data))):
                return self._opened.write_behind(access, self, offset, data)
            if is_stored:
                return await self._opened.write_back(access, self, offset, data)
            return await self._opened.run_counted(access, self)
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
            await self._opened.run_counted(vmo.set_size(end), self)
        elif isinstance(vmo, PagerVmo) and vmo.node.options.unbounded:
            await self._opened.run_counted(vmo.set_stream_size(end), self)
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
        if isinstance(vmo, PagerVmo) and self.file.nlink:  # without a name it goes with the last who has it open
            # A thread of the kernel makes the call that was submitted by libaio, and whoever submitted it waits for it.
            await self._opened.run_counted(vmo.sync(), self, self.process)

    def release(self) -> None:
        """Count the file as open no longer."""
        self.file.mapper_count -= self._may_map
        self.file.writer_count -= self._may_write
        self._opened.remove(self.file, self.process)
