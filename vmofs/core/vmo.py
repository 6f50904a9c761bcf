"""Pager VMOs: memory whose absent pages a pager supplies on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmofs.core import content, writeback
from vmofs.core.access import Access, Need, Steps
from vmofs.core.content import Bytes
from vmofs.core.ranges import RangeSet
from vmofs.core.request import Command
from vmofs.core.runs import Run, RunMap
from vmofs.core.source import PageSource, SourceState, SourceStatistics
from vmofs.core.states import COMMITTED, PageEvent, PageState, after
from vmofs.status import OutOfRangeError, Status
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange, page_count

if TYPE_CHECKING:
    from vmofs.core.system import System

WRITE_BATCH_PAGES = 16
"""A write asks for at most this many pages at a time (zircon-pager 3.2; a tuning number, not API)."""

MAX_VMO_PAGES = MAX_VMO_BYTES // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class VmoOptions:
    """Creation options. Zircon: ZX_VMO_RESIZABLE, ZX_VMO_TRAP_DIRTY, ZX_VMO_UNBOUNDED."""

    resizable: bool = False
    trap_dirty: bool = False
    unbounded: bool = False


@dataclass(frozen=True, slots=True)
class VmoStatistics:
    """Pages of one VMO by state; gaps are what is left of ``size_pages``."""

    size_pages: int
    clean: int
    marker: int
    dirty: int
    awaiting_clean: int
    dirty_zero: int
    untracked_zero: int
    runs: int
    source: SourceStatistics


class PagerVmo:
    """A VMO made by a pager: ``size_pages`` pages, of which ``stream_size`` bytes are the file's content.

    Calls that may wait for the pager (``read``, ``write``) return an ``Access``; those with ``nowait`` never wait.
    """

    def __init__(self, system: System, source: PageSource, stream_size: int, options: VmoOptions) -> None:
        self.system = system
        self.frames = system.frames
        self.runs = RunMap()
        self.source = source
        self.options = options
        self.pinned = RangeSet()
        self.modified = False
        self.stream_size = stream_size
        self.size_pages = MAX_VMO_PAGES if options.unbounded else page_count(stream_size)
        if options.unbounded:
            self.put_zero(PageRange(page_count(stream_size), self.size_pages), PageState.UNTRACKED)
        system.register(self, self.runs)

    @property
    def committed_pages(self) -> int:
        """Pages that occupy memory."""
        return self.runs.committed_pages

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the runs of committed pages in a range, each of which is read without a copy."""
        return [run.range for run in self.runs.over(pages) if run.state in COMMITTED]

    def state_at(self, page: int) -> PageState:
        """Return the state of one page."""
        return writeback.page_state(self.runs.at(page), page)

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside the VMO.

        Raises:
            OutOfRangeError: it overflows 64 bits, or ends beyond the size.
        """
        size = self.size_pages * PAGE_SIZE
        if offset + length > min(UINT64_MAX, size):
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the VMO of {size} bytes")

    # Reading

    def read_nowait(self, offset: int, length: int) -> Bytes | None:
        """Return the bytes if every page is there, else None. Valid until the next call on any object.

        Raises:
            OutOfRangeError: the range does not lie inside the VMO.
        """
        self.check_inside(offset, length)
        if length == 0:
            return b""
        return content.read_present(self.frames, self.runs, offset, offset + length, gaps_are_zero=False)

    def read(self, offset: int, length: int) -> Access[bytes]:
        """Read bytes, asking the pager for what is absent. Zircon: zx_vmo_read.

        Fails with OUT_OF_RANGE when the range does not lie inside the VMO (now, or after a wait), with what the pager
        failed the range with, BAD_STATE without a pager, TIMED_OUT at the deadline.
        """
        return Access(self._read_steps(offset, length))

    def _read_steps(self, offset: int, length: int) -> Steps[bytes]:
        self.check_inside(offset, length)
        pieces, position, end = [], offset, offset + length
        while position < end:
            page = position // PAGE_SIZE
            run = self.runs.at(page)
            if run is None:
                yield self.need_read(PageRange(page, page_count(end)), wanted=page)
                self.check_inside(offset, length)
                continue
            stop = min(end, run.end * PAGE_SIZE)
            # Copied now, not at the end: a page that is evicted meanwhile does not have to be asked for again.
            pieces.append(bytes(content.run_bytes(self.frames, run, position, stop)))
            position = stop
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def need_read(self, pages: PageRange, wanted: int | None = None) -> Need:
        """Return the need for the gap at the start of ``pages``, as far as it goes."""
        self.source.check_attached()
        return Need(
            self.source, Command.READ, PageRange(pages.start, self.runs.next_start(pages.start, pages.end)), wanted
        )

    # Writing

    def write(self, offset: int, data: Bytes) -> Access[int]:
        """Write bytes; absent pages are READ first, and under TRAP_DIRTY the pager is asked. Zircon: zx_vmo_write.

        Fails as ``read`` does. What was written before the failure stays written.
        """
        return Access(self.write_steps(offset, data))

    def write_steps(self, offset: int, data: Bytes) -> Steps[int]:
        """Write bytes, as steps of a larger call."""
        self.check_inside(offset, len(data))
        position, end = offset, offset + len(data)
        while position < end:
            page = position // PAGE_SIZE
            batch = PageRange(page, min(page_count(end), page + WRITE_BATCH_PAGES))
            batch_end = min(end, batch.end * PAGE_SIZE)
            while position < batch_end:
                pages = PageRange(position // PAGE_SIZE, batch.end)
                need = self.need_to_write(pages)
                if need is not None:
                    yield need
                    self.check_inside(offset, len(data))
                    continue
                dirty = writeback.first_run_in(self.runs, pages, frozenset({PageState.DIRTY}))
                stop = min(batch_end, dirty.end * PAGE_SIZE)
                content.write_committed(self.frames, self.runs, position, data[position - offset : stop - offset])
                self.modified = True
                position = stop
        return len(data)

    def need_to_write(self, pages: PageRange) -> Need | None:
        """Make the first page of ``pages`` dirty, and those that go with it; or return what must be asked first."""
        state = self.state_at(pages.start)
        if state is PageState.GAP:
            return self.need_read(pages)
        if state is PageState.DIRTY:
            return None
        if self.options.trap_dirty:
            self.source.check_attached()
            present = _PRESENT - {PageState.DIRTY}
            return Need(self.source, Command.DIRTY, writeback.first_run_in(self.runs, pages, present))
        # Committed pages become dirty together, before a byte is copied; zero pages one by one (zircon-pager 4.1).
        ready = writeback.first_run_in(self.runs, pages, COMMITTED) or PageRange(pages.start, pages.start + 1)
        self.make_dirty(ready, PageEvent.WRITE)
        return None

    def make_dirty(self, pages: PageRange, event: PageEvent) -> None:
        """Make present pages dirty, giving those that read as zeros a frame, and resolve DIRTY requests for them.

        Raises:
            NoMemoryError: nothing changed.
        """
        content.commit_zero(self.frames, self.runs, pages, PageState.CLEAN)
        writeback.make_dirty(self.runs, pages, event)
        self.source.resolve(Command.DIRTY, pages)

    # Supplying

    def insert(self, pages: PageRange, supplied: list[Run]) -> list[PageRange]:
        """Fill the gaps of ``pages`` with the frames of ``supplied`` (same page numbers), zeros where it has none.

        What is present is kept and its replacement freed. Returns the runs of newly filled pages, whose waiters woke.
        Zircon: zx_pager_supply_pages, step 7; the range was checked.
        """
        fresh = RunMap()
        for run in supplied:
            fresh.put(run)
        filled = self.runs.gaps(pages)
        for gap in filled:
            for hole in fresh.gaps(gap):
                self.put_zero(hole, after(PageState.GAP, PageEvent.SUPPLY_ZERO))
            for run in fresh.take(gap):
                self.runs.put(run.becomes(after(PageState.GAP, PageEvent.SUPPLY_PAGE)))
            self._zero_beyond_stream(gap)
            self.source.resolve(Command.READ, gap)
        content.free_runs(self.frames, fresh.take(pages))
        return filled

    def _zero_beyond_stream(self, filled: PageRange) -> None:
        """Clear what was supplied beyond the end of the content in its last page: no reader may ever see it."""
        tail = -self.stream_size % PAGE_SIZE
        page = self.stream_size // PAGE_SIZE
        run = self.runs.at(page) if tail and page in filled else None
        if run is not None and run.state in COMMITTED:
            content.write_committed(self.frames, self.runs, self.stream_size, content.zeros(tail))

    def put_zero(self, pages: PageRange, state: PageState) -> None:
        if pages:
            self.runs.put(Run(pages.start, pages.end, state))

    # The end

    def detach(self) -> list[PageRange]:
        """End the bond with the pager: waiters get BAD_STATE, clean pages and markers go; return what went."""
        dropped = self._drop(PageRange(0, self.size_pages), PageEvent.DETACH)
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.DETACHED
            self.source.fail_all(Status.BAD_STATE)
            self.source.send_complete()
        return dropped

    def pager_closed(self) -> None:
        """Lose the pager: waiters get BAD_STATE, all pages stay, and no packet is left behind."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.PAGER_CLOSED
            self.source.fail_all(Status.BAD_STATE)
        self.source.withdraw_all()

    def evict(self, pages: PageRange) -> list[PageRange]:
        """Drop the clean pages of a range that are not pinned; return what was dropped. The next access asks again."""
        return self._drop(pages, PageEvent.EVICT)

    def _drop(self, pages: PageRange, event: PageEvent) -> list[PageRange]:
        """Drop what an event turns into gaps and is not pinned; return what was dropped."""
        dropped = RangeSet()
        for run in self.runs.over(pages):
            if after(run.state, event) is PageState.GAP:
                for part in self.pinned.missing(run.range):
                    content.free_runs(self.frames, self.runs.take(part))
                    dropped.add(part)
        return list(dropped)

    def close(self) -> None:
        """Free everything: the last reference is gone. COMPLETE is sent unless it was."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.DETACHED
            self.source.fail_all(Status.BAD_STATE)
            self.source.send_complete()
        content.free_runs(self.frames, self.runs.take(PageRange(0, self.size_pages)))
        self.system.unregister(self)

    def statistics(self) -> VmoStatistics:
        """Return the present page counts."""
        pages_in = self.runs.pages_in
        return VmoStatistics(
            size_pages=self.size_pages,
            clean=pages_in(PageState.CLEAN),
            marker=pages_in(PageState.MARKER),
            dirty=pages_in(PageState.DIRTY),
            awaiting_clean=pages_in(PageState.AWAITING),
            dirty_zero=pages_in(PageState.ZERO),
            untracked_zero=pages_in(PageState.UNTRACKED),
            runs=len(self.runs),
            source=self.source.statistics(),
        )

    def check(self) -> None:
        """Assert that pages lie inside, and that nobody waits for a page that is there."""
        self.runs.check()
        self.source.check()
        assert not self.runs.whole_over(PageRange(self.size_pages, MAX_VMO_PAGES))


_PRESENT = frozenset(PageState) - {PageState.GAP}
