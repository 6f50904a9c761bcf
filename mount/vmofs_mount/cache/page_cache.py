"""The kernel's page cache of VMO files: supplied pages are put there, pages that changed or went are dropped from it.

What is to be done is kept as ranges for each file: drops first, then stores of what is present by then. So however late
the threads are, the cache ends up with what the VMO has.
"""

# Rules
#
# 1. A message to the kernel is given in a worker thread, never by the trio thread. It may wait for the lock of a page,
#    and for an unmount.
# 2. Ranges are queued, not bytes. Drops come first. Then what is to be stored is read from the model, in the moment in
#    which a thread gets it.
# 3. A store is made only while the file is open and nobody may write to it. What was stored although a writer came
#    meanwhile is dropped again.
# 4. Pages that a waiting READ is to bring are not stored. The kernel has them locked, and the thread would wait.
# 5. A wait for a drop ends after a second, or when a READ or WRITE that waits for a pager has one of the pages: the one
#    that waits here may be that pager. What is left is counted, and the answer of the command says so (`held=N`).
# 6. What is worked on leaves the backlog before the await. So whatever comes meanwhile is queued anew, not lost.
# 7. Threads are limited for each user who can let a page go (`controller`), and stores apart from drops.
#
# How it works
#
#     supplied --> to_store --+                        +--> `Kernel.store_all`, 8 threads for each user
#                             +--> `_work`, one task --+
#     drop ------> to_drop ---+    for each file       +--> `Kernel.drop`, 32 threads for each user
#
# Three races with the kernel, which no lock of ours can exclude:
#
# * A store and a WRITE. The kernel has what is written in its cache before the WRITE comes here. A store in between
#   puts the old bytes back. `writers_total` tells whether anybody had the file open for writing meanwhile.
# * A READ and a change. A READ copies each page when it is there, and may wait for the next. A page that changes
#   meanwhile is marked (`WaitingReads.written`), and the READ copies again before its answer.
# * A WRITE that waits, and a READ. The kernel may drop the page, and a READ bring the old content back. `PendingWrites`
#   notes what was read, and `written` drops that before the WRITE is answered.
#
# What is not nice
#
# READs that wait and WRITEs under way are noted in two books, `WaitingReads` and `PendingWrites`. Attributes are told
# in two ways: `_announce` after 0.1 s, `_tell_kernel` at once, for sizes and aux files. `wait_dropped` looks every
# 0.02 s whether it is held up, since nobody tells it. The exceptions for aux files (`attributes_told`, `is_source`)
# live in the inode and in front/attributes.py.
#
# What else changes with this file
#
# linux/device_messages.py, which says what each message waits for; the attribute timeouts in front/attributes.py, which
# are long only because changes are announced here; "What to re-check after an await" and the threads in
# mount/CONCURRENCY.md; "The page cache of the kernel" in mount/SEMANTICS.md. Tests: tests/trio/test_pagecache.py,
# tests/trio/test_pagecache_attributes.py, tests/fuse/test_drops_before_answers.py, tests/fuse/test_direct_writes.py.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from vmofs.core.pages.content import Bytes
from vmofs.core.pages.frames import Frames
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import Vmo
from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.attributes import Attributes, CachedFile
from vmofs_mount.cache.drops import Drops
from vmofs_mount.cache.pending_writes import PendingWrite, PendingWrites
from vmofs_mount.cache.waiting_reads import WaitingReads
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.tree.inodes import AuxFile, VmoFile

DROP_SECONDS = 1.0
"""How long a call waits for the kernel to drop pages, which cannot take long once all readers have their answer."""

_HELD_UP_SECONDS = 0.02
"""After how long it is looked whether what is under way is held up by somebody who waits for a pager."""

_STORE_BYTES = 2**20  # notify_store reaches its full speed from 128 KiB on
_BATCH_PAGES = 2048
"""What one turn of a thread stores at most: a turn costs as much as storing 0.3 MiB."""


@dataclass(frozen=True, slots=True)
class PageCacheStatistics:
    """Pages still to be stored and dropped; ``*_total`` only grow."""

    files_busy: int
    stored_pages_total: int
    dropped_ranges_total: int


class _Backlog:
    __slots__ = ("began", "done", "running", "stored", "to_drop", "to_store", "under_way")

    def __init__(self) -> None:
        self.to_store = RangeSet()
        self.to_drop = RangeSet()
        self.running = False
        self.under_way: list[PageRange] = []  # what a thread drops or stores just now
        self.began = 0.0  # when that began
        self.done = trio.Event()
        self.stored: trio.Event | None = None  # set when the stores that are under way are over

    @property
    def has_drops(self) -> bool:
        return bool(self.to_drop) or (bool(self.under_way) and self.stored is None)

    @property
    def not_dropped(self) -> list[PageRange]:
        """Pages that are still to be dropped, or just being dropped."""
        return [*self.to_drop, *(self.under_way if self.stored is None else ())]


class PageCache:
    """Keeps the kernel's cache of all data files in step. Tasks run in ``spawn``'s nursery.

    ``controller`` returns the user who decides how long pages of a file stay locked: the one whose pager answers READs.
    """

    def __init__(
        self,
        kernel: Kernel,
        frames: Frames,
        spawn: Callable[..., None],
        controller: Callable[[CachedFile], int] = lambda file: file.uid,
        reads: WaitingReads | None = None,
    ) -> None:
        self._kernel = kernel
        self._frames = frames
        self._spawn = spawn
        self._backlogs: dict[CachedFile, _Backlog] = {}
        self._working: dict[CachedFile, None] = {}  # those whose backlog is being worked off
        self._storers = Lanes(8)
        self._drops = Drops(kernel, controller)
        self._attributes = Attributes(kernel, spawn)
        self._controller = controller
        self.reads = WaitingReads() if reads is None else reads
        self.writes = PendingWrites()
        self._stored_pages_total = 0

    def changed(self, file: VmoFile) -> None:
        """Let the kernel know that a file has more pages, which READs bring that are answered."""
        self._attributes.changed(file)

    def supplied(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Store newly supplied pages if the file is open, except those that a waiting READ brings.

        Not if somebody may write: the kernel puts what is written in the page cache before the WRITE comes here, and a
        store that arrives in between would put back what was there before. Such readers ask for each page.
        """
        # `st_blocks` has changed, whether pages are stored or not.
        self._attributes.changed(file)
        if not _takes_stores(file):
            return
        backlog = self._backlog(file)
        for pages in filled:
            waiting = self.reads.over(file, pages)
            if any(pages.start >= read.start and pages.end <= read.end for read in waiting):
                continue  # most pages that are supplied were asked for
            _note_to_store(file, backlog, pages, waiting)
        if backlog.to_store:
            self._start(file, backlog)

    def store_ahead(self, file: VmoFile, pages: PageRange) -> None:
        """Store what is present of pages that somebody is about to read, on the conditions of ``supplied``."""
        pages &= PageRange(0, file.vmo.size_pages)
        if not pages or not _takes_stores(file):
            return
        backlog = self._backlog(file)
        _note_to_store(file, backlog, pages, self.reads.over(file, pages))
        if backlog.to_store:
            self._start(file, backlog)

    def stale(self, vmo: object, pages: list[PageRange]) -> None:
        """Drop pages of a VMO that changed by another way than a write through its file, if it has one."""
        file = vmo.owner  # type: ignore[attr-defined] # every object of the core has one
        if isinstance(file, CachedFile):
            self.drop(file, pages)

    def drop(self, file: CachedFile, stale: list[PageRange]) -> None:
        """Drop pages whose content changed or went. Returns at once; see ``wait_dropped``."""
        has_pages = bool(stale) and file.maybe_cached
        if isinstance(file, VmoFile):
            self._attributes.changed(file)
        else:
            # From now on its attributes are asked for each time: that costs less than to have them forgotten.
            file.is_source = True
            if file.attributes_told:
                file.attributes_told = False
                if not has_pages:  # with pages go the attributes
                    self._attributes.tell(file)  # soon is too late: of an aux file the kernel believed them for long
        if not has_pages:
            return
        backlog = self._backlog(file)
        for pages in stale:
            backlog.to_drop.add(pages)
            if isinstance(file, VmoFile):
                _mark_outdated(file, self.reads, pages)
        self._start(file, backlog)

    async def written(self, write: PendingWrite, seconds: float) -> None:
        """Drop what was read while a WRITE was under way, before that is answered; wait at most ``seconds``.

        Pages that a READ waits for are locked until it is answered. It may have copied them before they were written
        to; then it copies them again. They are dropped all the same.
        """
        waiting = self.reads.written(write.file, write.pages)
        if waiting:
            self.drop(write.file, waiting)
        with trio.move_on_after(seconds):
            # READs that were answered while the WRITE was under way. They brought what was there before it.
            for pages in write.read:
                await self._drops.drop_in_turn(write.file, pages)

    async def drop_failed(self, file: VmoFile, pages: PageRange, begun: Callable[[], None]) -> bool:
        """Drop pages whose READ failed, so that the next access starts afresh; return False if another READ waits.

        ``begun`` is called when a thread is about to wait for the locks of the pages.
        """
        if self.reads.over(file, pages):
            return False
        await self._drops.drop_in_turn(file, pages, partial(trio.lowlevel.current_trio_token().run_sync_soon, begun))
        return True

    async def drop_unlocked(self, file: CachedFile, pages: list[PageRange], seconds: float) -> bool:
        """Drop pages and return when they are gone; what was stored to them through mappings has come here by then.

        Not those that a READ or WRITE that waits for a pager has locked. Their content is what it brings, or on its way
        here, and whoever has to answer it may be the very one who is kept waiting. What else holds a drop up is waited
        for at most ``seconds``; return whether nothing did.
        """
        left = RangeSet()
        for part in pages:
            left.add(part)
        with trio.move_on_after(seconds) as scope:
            while left:
                part = next(iter(left))
                locked = self._locked(file, part)
                for held in locked:
                    left.discard(held)
                if not locked:
                    await self._drop_unless_locked(file, part)
                    if not self._locked(file, part):
                        left.discard(part)
        return not scope.cancelled_caught

    async def _drop_unless_locked(self, file: CachedFile, pages: PageRange) -> None:
        """Drop pages, and return when they are gone, or some are locked; then the thread goes on by itself."""
        gone = trio.Event()

        async def drop() -> None:
            try:
                await self._drops.drop(file, pages)
            finally:
                gone.set()

        # A task of its own: the caller stops waiting when pages are locked, and the thread must go on.
        self._spawn(drop)
        while not gone.is_set():
            with trio.move_on_after(_HELD_UP_SECONDS):
                await gone.wait()
            if not gone.is_set() and self._locked(file, pages):
                return

    def _locked(self, file: CachedFile, pages: PageRange) -> list[PageRange]:
        """Return those of the pages that the kernel has locked for a READ or WRITE that waits for a pager."""
        if isinstance(file, AuxFile):
            # No pager owes a page of an aux, so nobody has one locked for long.
            return []
        return [locked & pages for locked in [*self.reads.over(file, pages), *self.writes.over(file, pages)]]

    async def wait_stored(self, file: VmoFile, seconds: float) -> None:
        """Wait until no store is under way, at most ``seconds``: it might undo a write."""
        backlog = self._backlogs.get(file)
        if backlog is not None and backlog.stored is not None:
            with trio.move_on_after(seconds):
                await backlog.stored.wait()

    async def wait_dropped(self, file: CachedFile, seconds: float) -> int:
        """Wait until nothing is left to be dropped, stored or told, at most ``seconds``.

        Returns how many pages are still to be dropped, without those of a WRITE that waits: a reader of these sees what
        is just being written. It does not wait for pages that the kernel has locked for a READ or WRITE that waits: the
        pager that has to answer it may be the very one that is kept waiting here. Nor does it wait for what has taken
        long enough already, for whatever reason: a pager that gives many commands would wait for it each time.
        """
        await self._attributes.wait_told(file, seconds)
        backlog = self._backlogs.get(file)
        if backlog is None or not backlog.running:
            return 0
        with trio.move_on_after(seconds):
            while True:
                with trio.move_on_after(_HELD_UP_SECONDS):
                    await backlog.done.wait()
                    break
                # Nobody tells when a READ comes that has one of the pages: so it is looked again and again.
                if self._is_held_up(file, backlog, seconds):
                    break
        held = sum(pages.pages for pages in backlog.not_dropped)
        if isinstance(file, VmoFile):
            # A reader of these sees what is just being written, as it may.
            held -= sum(self.writes.common_pages(file, pages) for pages in backlog.not_dropped)
        return held

    def _is_held_up(self, file: CachedFile, backlog: _Backlog, seconds: float) -> bool:
        """Return whether what is under way takes long, or a READ or WRITE that waits has pages of it."""
        if backlog.under_way and trio.current_time() - backlog.began >= seconds:
            return True
        return any(self._locked(file, pages) for pages in backlog.under_way)

    @property
    def is_behind(self) -> bool:
        """Whether anything may be left to be dropped or told."""
        return bool(self._working or self._attributes.telling)

    async def wait_dropped_everywhere(self, vmo: Vmo, seconds: float, but: CachedFile | None = None) -> int:
        """Do as ``wait_dropped`` does, for all files that have that to come and may show this VMO, except ``but``."""
        busy = [
            file
            for file in {**self._working, **self._attributes.telling}
            if file is not but and self._is_stale(file) and _may_show(file, vmo)
        ]
        # One bound for all files together: the kernel has the command file locked meanwhile.
        ends = trio.current_time() + seconds
        held = 0
        for file in busy:
            held += await self.wait_dropped(file, max(0.0, ends - trio.current_time()))
        return held

    def _is_stale(self, file: CachedFile) -> bool:
        """Return whether the kernel may have attributes or pages of a file that are not true any more."""
        backlog = self._backlogs.get(file)
        return file in self._attributes.telling or (backlog is not None and backlog.has_drops)

    def mode_changed(self, file: CachedFile) -> None:
        """Let the kernel know of a mode: whoever executes the file looks its attributes up, or believes what it has."""
        self.drop(file, [])

    def size_changed(self, vmo: Vmo, but: CachedFile | None = None) -> None:
        """Let the kernel know that a size changed, in all files that show this VMO except ``but``.

        Returns at once; ``wait_dropped`` waits for it.
        """
        self._attributes.size_changed(vmo, but)

    def closed(self, file: VmoFile) -> None:
        """Forget a file that nobody has open any more, unless it has still something to do."""
        backlog = self._backlogs.get(file)
        if backlog is not None and not backlog.running:
            del self._backlogs[file]

    def _backlog(self, file: CachedFile) -> _Backlog:
        backlog = self._backlogs.get(file)
        if backlog is None:
            backlog = self._backlogs[file] = _Backlog()
        return backlog

    def _forget_if_idle(self, file: CachedFile, backlog: _Backlog) -> None:
        if not _is_kept(file, backlog):
            self._backlogs.pop(file, None)

    def _start(self, file: CachedFile, backlog: _Backlog) -> None:
        if not backlog.running:
            backlog.running = True
            self._working[file] = None
            backlog.done = trio.Event()
            self._spawn(self._work, file, backlog)

    async def _work(self, file: CachedFile, backlog: _Backlog) -> None:
        try:
            while backlog.to_drop or backlog.to_store:
                # A store behind a drop that is still to come would be taken away by it.
                if backlog.to_drop:
                    await self._drop_first(file, backlog)
                elif isinstance(file, VmoFile):
                    await self._store_some(file, backlog)
        finally:
            backlog.running = False
            del self._working[file]
            backlog.done.set()
            self._forget_if_idle(file, backlog)

    async def _drop_first(self, file: CachedFile, backlog: _Backlog) -> None:
        pages = next(iter(backlog.to_drop))
        # Before the await: if it becomes stale again meanwhile, it is queued again.
        backlog.to_drop.discard(pages)
        backlog.began, backlog.under_way = trio.current_time(), [pages]
        try:
            await self._drops.drop(file, pages)
        finally:
            backlog.under_way = []

    async def _store_some(self, file: VmoFile, backlog: _Backlog) -> None:
        """Store some of what is to be stored, as it is now."""
        parts, pieces = _take_some(file, backlog.to_store)
        if not pieces or not _takes_stores(file):
            return
        # The thread reads the frames themselves. Until they are given back they are not used for anything else.
        loans = [self._frames.lend(data) for _, data in pieces]
        # A count of all there ever were: a writer that has come and gone does not show in `writer_count`.
        writers_before, stored = file.writers_total, trio.Event()
        backlog.stored, backlog.began, backlog.under_way = stored, trio.current_time(), parts
        try:
            await self._storers.run(self._controller(file), partial(self._kernel.store_all, file.ino, pieces))
        finally:
            for loan in loans:
                self._frames.give_back(loan)
            backlog.stored, backlog.under_way = None, []
            stored.set()
        self._stored_pages_total += sum(part.pages for part in parts)
        if not _takes_stores(file) or file.writers_total != writers_before:  # a writer has, or had, opened it meanwhile
            for part in parts:
                backlog.to_drop.add(part)

    def statistics(self) -> PageCacheStatistics:
        """Return the present counts."""
        busy = sum(backlog.running for backlog in self._backlogs.values())
        return PageCacheStatistics(busy, self._stored_pages_total, self._drops.ranges_total)

    def check(self) -> None:
        """Assert that every remembered file is an open VMO or has something to do."""
        self.writes.check()
        self.reads.check()
        assert all(_is_kept(file, backlog) for file, backlog in self._backlogs.items())
        self._attributes.check()


def _note_to_store(file: VmoFile, backlog: _Backlog, pages: PageRange, waiting: list[PageRange]) -> None:
    """Queue what is present of a range, except what READs that wait bring."""
    for part in file.vmo.committed(pages):  # what was supplied as zeros may be 2^50 pages
        backlog.to_store.add(part)
    # Each of these is for a part of the range, and brings that part itself.
    for read in waiting:
        backlog.to_store.discard(read)


def _mark_outdated(file: VmoFile, reads: WaitingReads, stale: PageRange) -> None:
    """Let READs copy again what changed while they wait, or their answer would bring back what was there before.

    Not what went: a READ of more than there is room for would be for ever about to ask for what it had.
    """
    for part in [read & stale for read in reads.over(file, stale)]:
        if any(file.vmo.state_at(page) is not PageState.GAP for page in range(part.start, part.end)):
            reads.written(file, part)


def _take_some(file: VmoFile, to_store: RangeSet) -> tuple[list[PageRange], list[tuple[int, Bytes]]]:
    """Take pages that are to be stored; return those that are there, and their bytes cut into single stores."""
    parts: list[PageRange] = []
    pieces: list[tuple[int, Bytes]] = []
    left = _BATCH_PAGES
    while left > 0 and to_store:
        pages = next(iter(to_store))
        pages = PageRange(pages.start, min(pages.end, pages.start + left))
        to_store.discard(pages)
        left -= pages.pages
        for part in file.vmo.unmarked(pages):  # the pager wants to know when somebody comes to the others
            end = min(part.end * PAGE_SIZE, file.vmo.stream_size)
            data = file.vmo.read_nowait(part.offset, end - part.offset) if end > part.offset else None
            if data is not None:
                parts.append(part)
                pieces += [
                    (part.offset + start, data[start : start + _STORE_BYTES])
                    for start in range(0, len(data), _STORE_BYTES)
                ]
    return parts, pieces


def _takes_stores(file: VmoFile) -> bool:
    return file.open_count > 0 and not file.writer_count


def _is_kept(file: CachedFile, backlog: _Backlog) -> bool:
    """Return whether a backlog is needed. An open VMO keeps it for what is supplied next."""
    return backlog.running or (isinstance(file, VmoFile) and file.open_count > 0)


def _may_show(file: CachedFile, vmo: Vmo) -> bool:
    """Return whether a change of a VMO can be seen in a file. An anonymous snapshot sees none."""
    if isinstance(file, AuxFile) or isinstance(vmo, AuxVmo | AuxView):
        return isinstance(file, AuxFile) and file.aux.node is vmo.node
    return file.vmo.source is vmo.source
