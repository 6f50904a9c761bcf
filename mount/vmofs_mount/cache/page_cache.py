"""The kernel's page cache of VMO files: supplied pages are put there, pages that changed or went are dropped from it.

Both may block for as long as a READ of one of the pages is unanswered, so they happen in worker threads and nobody
waits for a store. So do messages about attributes, which wait for nothing but an unmount that waits for the others.
What is to be done is kept as ranges for each file: drops first, then stores of what is present by then. So however late
the threads are, the cache ends up with what the VMO has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import trio

from vmofs.core.pages.content import Bytes
from vmofs.core.pages.frames import Frames
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import Vmo
from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.pending_writes import PendingWrite, PendingWrites
from vmofs_mount.cache.waiting_reads import WaitingReads
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.tree.inodes import AuxFile, VmoFile

CachedFile = VmoFile | AuxFile

DROP_SECONDS = 1.0
"""How long a call waits for the kernel to drop pages, which cannot take long once all readers have their answer."""

_HELD_UP_SECONDS = 0.02
"""After how long it is looked whether what is under way is held up by somebody who waits for a pager."""

_DROPS_OF_FILE = 4
"""That failed reads and writes of one file want at the same time."""

_STORE_BYTES = 2**20  # notify_store reaches its full speed from 128 KiB on
_BATCH_PAGES = 2048
"""What one turn of a thread stores at most: a turn costs as much as storing 0.3 MiB."""
_ATTRIBUTES_SECONDS = 0.1
"""How long a changed ``st_blocks`` may stay unseen by fstat. A stat by name always sees it."""


@dataclass(frozen=True, slots=True)
class PageCacheStatistics:
    """Pages still to be stored and dropped; ``*_total`` only grow."""

    files_busy: int
    stored_pages_total: int
    dropped_ranges_total: int


class _Backlog:
    __slots__ = ("began", "done", "reads", "running", "stored", "to_drop", "to_store", "under_way")

    def __init__(self) -> None:
        self.to_store = RangeSet()
        self.to_drop = RangeSet()
        self.reads = WaitingReads()
        self.running = False
        self.under_way: list[PageRange] = []  # what a thread drops or stores just now
        self.began = 0.0  # when that began
        self.done = trio.Event()
        self.stored: trio.Event | None = None  # set when the stores that are under way are over

    @property
    def busy(self) -> bool:
        return self.running or bool(self.reads)

    @property
    def has_drops(self) -> bool:
        return bool(self.to_drop) or (bool(self.under_way) and self.stored is None)

    @property
    def not_dropped(self) -> list[PageRange]:
        """Pages that are still to be dropped, or just being dropped."""
        return [*self.to_drop, *(self.under_way if self.stored is None else ())]


class PageCache:
    """Keeps the kernel's cache of all data files in step. Tasks run in ``spawn``'s nursery.

    ``controller`` returns the user who can let the pages of a file be locked: he answers the READs.
    """

    def __init__(
        self,
        kernel: Kernel,
        frames: Frames,
        spawn: Callable[..., None],
        controller: Callable[[CachedFile], int] = lambda file: file.uid,
    ) -> None:
        self._kernel = kernel
        self._frames = frames
        self._spawn = spawn
        self._backlogs: dict[CachedFile, _Backlog] = {}
        self._working: dict[CachedFile, None] = {}  # those whose backlog is being worked off
        # Apart from each other: stores may all be stuck behind pages that a slow pager owes, drops must still go on.
        self._storers = Lanes(8)
        self._droppers = Lanes(32)
        self._drop_turns: WeakKeyDictionary[CachedFile, trio.Semaphore] = WeakKeyDictionary()
        self._tellers = trio.CapacityLimiter(8)
        self._telling: dict[CachedFile, trio.Event] = {}  # whose attributes the kernel is being told to ask for anew
        self._to_tell: set[CachedFile] = set()  # those of them for which no thread has begun
        self._controller = controller
        self.writes = PendingWrites()
        self._changed: dict[CachedFile, None] = {}
        self._read_number = 0
        self._stored_pages_total = 0
        self._dropped_ranges_total = 0

    def begin_read(self, file: VmoFile, pages: PageRange) -> int:
        """Note that a READ waits for a pager: its pages are locked until its answer brings them. Returns a number."""
        self._read_number += 1
        self._backlog(file).reads.add(self._read_number, pages)
        return self._read_number

    def end_read(self, file: VmoFile, number: int) -> bool:
        """Note that the READ is about to be answered; return whether what it has may be older than a WRITE that was."""
        backlog = self._backlogs[file]
        outdated = backlog.reads.remove(number)
        self._forget_if_idle(file, backlog)
        return outdated

    def supplied(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Store newly supplied pages if the file is open, except those that a waiting READ brings.

        Not if somebody may write: the kernel puts what is written in the page cache before the WRITE comes here, and a
        store that arrives in between would put back what was there before. Such readers ask for each page.
        """
        self.attributes_changed(file)
        if not _takes_stores(file):
            return
        backlog = self._backlog(file)
        for pages in filled:
            waiting = backlog.reads.over(pages)
            if any(pages.start >= read.start and pages.end <= read.end for read in waiting):
                continue  # most pages that are supplied were asked for
            for part in file.vmo.committed(pages):  # what was supplied as zeros may be 2^50 pages
                backlog.to_store.add(part)
            for read in waiting:
                backlog.to_store.discard(read)
        if backlog.to_store:
            self._start(file, backlog)

    def drop(self, file: CachedFile, stale: list[PageRange]) -> None:
        """Drop pages whose content changed or went. Returns at once; see ``wait_dropped``."""
        has_pages = bool(stale) and file.maybe_cached
        if isinstance(file, VmoFile):
            self.attributes_changed(file)
        else:
            file.is_source = True
            if file.attributes_told:
                file.attributes_told = False
                if not has_pages:  # with pages go the attributes
                    self._tell(file)  # soon is too late: of an aux file the kernel believed them for long
        if not has_pages:
            return
        backlog = self._backlog(file)
        for pages in stale:
            backlog.to_drop.add(pages)
            if isinstance(file, VmoFile):
                self._mark_outdated(file, backlog.reads, pages)
        self._start(file, backlog)

    def _mark_outdated(self, file: VmoFile, reads: WaitingReads, stale: PageRange) -> None:
        """Let READs copy again what changed while they wait, or their answer would bring back what was there before.

        Not what went: a READ of more than there is room for would be for ever about to ask for what it had.
        """
        for part in [read & stale for read in reads.over(stale)]:
            if any(file.vmo.state_at(page) is not PageState.GAP for page in range(part.start, part.end)):
                reads.written(part)

    async def written(self, write: PendingWrite, seconds: float) -> None:
        """Drop what was read while a WRITE was under way, before that is answered; wait at most ``seconds``.

        Pages that a READ waits for are locked until it is answered. It may have copied them before they were written
        to; then it copies them again. They are dropped all the same.
        """
        backlog = self._backlogs.get(write.file)
        waiting = [] if backlog is None else backlog.reads.written(write.pages)
        if waiting:
            self.drop(write.file, waiting)
        with trio.move_on_after(seconds):
            for pages in write.read:
                await self._drop_in_turn(write.file, pages)

    async def drop_failed(self, file: VmoFile, pages: PageRange, begun: Callable[[], None]) -> bool:
        """Drop pages whose READ failed, so that the next access starts afresh; return False if another READ waits.

        ``begun`` is called when a thread is about to wait for the locks of the pages.
        """
        backlog = self._backlogs.get(file)
        if backlog is not None and backlog.reads.over(pages):
            return False
        await self._drop_in_turn(file, pages, partial(trio.lowlevel.current_trio_token().run_sync_soon, begun))
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
                await self._drop(file, pages)
            finally:
                gone.set()

        self._spawn(drop)
        while not gone.is_set():
            with trio.move_on_after(_HELD_UP_SECONDS):
                await gone.wait()
            if not gone.is_set() and self._locked(file, pages):
                return

    def _locked(self, file: CachedFile, pages: PageRange) -> list[PageRange]:
        """Return those of the pages that the kernel has locked for a READ or WRITE that waits for a pager."""
        if isinstance(file, AuxFile):
            return []
        backlog = self._backlogs.get(file)
        reads = [] if backlog is None else backlog.reads.over(pages)
        return [locked & pages for locked in [*reads, *self.writes.over(file, pages)]]

    async def wait_stored(self, file: VmoFile, seconds: float) -> None:
        """Wait until no store is under way, at most ``seconds``: it might undo a write."""
        backlog = self._backlogs.get(file)
        if backlog is not None and backlog.stored is not None:
            with trio.move_on_after(seconds):
                await backlog.stored.wait()

    async def wait_dropped(self, file: CachedFile, seconds: float) -> int:
        """Wait until nothing is left to be dropped, stored or told, at most ``seconds``.

        Returns how many pages are still to be dropped, without those that a WRITE which waits has: who reads them sees
        what is just being written, as he may. It does not wait for pages that the kernel has locked for a READ or WRITE
        that waits: the one who has to answer it may be the very one who is kept waiting here. Nor for what has taken
        long enough already, for whatever reason: a pager that gives many commands would wait for it each time.
        """
        if file in self._telling:
            with trio.move_on_after(seconds):
                await self._telling[file].wait()
        backlog = self._backlogs.get(file)
        if backlog is None or not backlog.running:
            return 0
        with trio.move_on_after(seconds):
            while True:
                with trio.move_on_after(_HELD_UP_SECONDS):
                    await backlog.done.wait()
                    break
                if self._is_held_up(file, backlog, seconds):
                    break
        held = sum(pages.pages for pages in backlog.not_dropped)
        if isinstance(file, VmoFile):
            held -= sum(self.writes.common_pages(file, pages) for pages in backlog.not_dropped)
        return held

    def _is_held_up(self, file: CachedFile, backlog: _Backlog, seconds: float) -> bool:
        """Return whether what is under way takes long, or a READ or WRITE that waits has pages of it."""
        if backlog.under_way and trio.current_time() - backlog.began >= seconds:
            return True
        return isinstance(file, VmoFile) and any(
            self.writes.has(file, pages) or backlog.reads.over(pages) for pages in backlog.under_way
        )

    @property
    def is_behind(self) -> bool:
        """Whether anything may be left to be dropped or told."""
        return bool(self._working or self._telling)

    async def wait_dropped_everywhere(self, vmo: Vmo, seconds: float, but: CachedFile | None = None) -> int:
        """Do as ``wait_dropped`` does, for all files that have that to come and may show this VMO, except ``but``."""
        busy = [
            file
            for file in {**self._working, **self._telling}
            if file is not but and self._is_stale(file) and _may_show(file, vmo)
        ]
        ends = trio.current_time() + seconds
        held = 0
        for file in busy:
            held += await self.wait_dropped(file, max(0.0, ends - trio.current_time()))
        return held

    def _is_stale(self, file: CachedFile) -> bool:
        """Return whether the kernel may have attributes or pages of a file that are not true any more."""
        backlog = self._backlogs.get(file)
        return file in self._telling or (backlog is not None and backlog.has_drops)

    def mode_changed(self, file: CachedFile) -> None:
        """Let the kernel know of a mode: whoever executes the file looks its attributes up, or believes what it has."""
        self.drop(file, [])

    def attributes_changed(self, file: CachedFile) -> None:
        """Let the kernel know soon that attributes changed."""
        if not self._changed:
            self._spawn(self._announce)
        self._changed[file] = None

    def size_changed(self, vmo: Vmo, but: CachedFile | None = None) -> None:
        """Let the kernel know that a size changed, in all files that show this VMO except ``but``.

        Returns at once; ``wait_dropped`` waits for it.
        """
        for shown in vmo.node.viewers:
            file = getattr(shown, "owner", None)
            if isinstance(file, CachedFile) and file is not but:
                self._tell(file)

    def _tell(self, file: CachedFile) -> None:
        """Have the kernel ask for the attributes anew, by a thread, which may have to wait for an unmount."""
        if not file.lookup_count:
            return
        if file not in self._telling:
            self._telling[file] = trio.Event()
            self._spawn(self._tell_kernel, file)
        self._to_tell.add(file)

    async def _tell_kernel(self, file: CachedFile) -> None:
        def tell() -> None:
            self._to_tell.discard(file)  # what changes from now on has to be told again
            self._kernel.drop_attributes(file.ino)

        try:
            while file in self._to_tell:
                await trio.to_thread.run_sync(tell, limiter=self._tellers, abandon_on_cancel=True)
        finally:
            self._to_tell.discard(file)
            self._telling.pop(file).set()

    async def _announce(self) -> None:
        await trio.sleep(_ATTRIBUTES_SECONDS)
        changed, self._changed = self._changed, {}
        inos = [file.ino for file in changed if file.lookup_count]

        def announce() -> None:
            for ino in inos:
                self._kernel.drop_attributes(ino)

        await trio.to_thread.run_sync(announce, limiter=self._tellers, abandon_on_cancel=True)

    def closed(self, file: VmoFile) -> None:
        """Forget a file that nobody has open any more, unless it has still something to do."""
        backlog = self._backlogs.get(file)
        if backlog is not None and not backlog.busy:
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
        backlog.to_drop.discard(pages)
        backlog.began, backlog.under_way = trio.current_time(), [pages]
        try:
            await self._drop(file, pages)
        finally:
            backlog.under_way = []

    async def _drop(self, file: CachedFile, pages: PageRange, begun: Callable[[], None] = lambda: None) -> None:
        def drop() -> None:
            begun()
            self._kernel.drop(file.ino, pages.offset, pages.length)

        self._dropped_ranges_total += 1
        await self._droppers.run(self._controller(file), drop)

    async def _drop_in_turn(self, file: CachedFile, pages: PageRange, begun: Callable[[], None] = lambda: None) -> None:
        """Drop pages for one of many who want that of a file: they must not take all threads of its pager's owner."""
        turns = self._drop_turns.get(file)
        if turns is None:
            turns = self._drop_turns[file] = trio.Semaphore(_DROPS_OF_FILE)
        async with turns:
            await self._drop(file, pages, begun)

    async def _store_some(self, file: VmoFile, backlog: _Backlog) -> None:
        """Store some of what is to be stored, as it is now."""
        parts, pieces = self._take_some(file, backlog)
        if not pieces or not _takes_stores(file):
            return
        loans = [self._frames.lend(data) for _, data in pieces]
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

    def _take_some(self, file: VmoFile, backlog: _Backlog) -> tuple[list[PageRange], list[tuple[int, Bytes]]]:
        """Take pages that are to be stored; return those that are there, and their bytes cut into single stores."""
        parts: list[PageRange] = []
        pieces: list[tuple[int, Bytes]] = []
        left = _BATCH_PAGES
        while left > 0 and backlog.to_store:
            pages = next(iter(backlog.to_store))
            pages = PageRange(pages.start, min(pages.end, pages.start + left))
            backlog.to_store.discard(pages)
            left -= pages.pages
            for part in file.vmo.committed(pages):
                end = min(part.end * PAGE_SIZE, file.vmo.stream_size)
                data = file.vmo.read_nowait(part.offset, end - part.offset) if end > part.offset else None
                if data is not None:
                    parts.append(part)
                    pieces += [
                        (part.offset + start, data[start : start + _STORE_BYTES])
                        for start in range(0, len(data), _STORE_BYTES)
                    ]
        return parts, pieces

    def statistics(self) -> PageCacheStatistics:
        """Return the present counts."""
        busy = sum(backlog.running for backlog in self._backlogs.values())
        return PageCacheStatistics(busy, self._stored_pages_total, self._dropped_ranges_total)

    def check(self) -> None:
        """Assert that every remembered file is an open VMO or has something to do."""
        self.writes.check()
        assert all(_is_kept(file, backlog) for file, backlog in self._backlogs.items())
        assert self._to_tell <= self._telling.keys()


def _takes_stores(file: VmoFile) -> bool:
    return file.open_count > 0 and not file.writer_count


def _is_kept(file: CachedFile, backlog: _Backlog) -> bool:
    """Return whether a backlog is needed. An open VMO keeps it for its next READ; an aux has no READ that waits."""
    return backlog.busy or (isinstance(file, VmoFile) and file.open_count > 0)


def _may_show(file: CachedFile, vmo: Vmo) -> bool:
    """Return whether a change of a VMO can be seen in a file. An anonymous snapshot sees none."""
    if isinstance(file, AuxFile) or isinstance(vmo, AuxVmo | AuxView):
        return isinstance(file, AuxFile) and file.aux.node is vmo.node
    return file.vmo.source is vmo.source
