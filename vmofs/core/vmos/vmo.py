"""Pager VMOs: memory whose absent pages a pager supplies on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vmofs.core.pages import content
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.eviction import Recency
from vmofs.core.pages.pins import Pin, Pins
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import Run, RunMap
from vmofs.core.pages.states import COMMITTED, PageEvent, PageState, after
from vmofs.core.requests.access import Access, Need, Steps
from vmofs.core.requests.page_source import PageSource, SourceState, SourceStatistics
from vmofs.core.vmos import commit, hints, resize, writeback, zero
from vmofs.core.vmos.cow_pages import Node
from vmofs.core.vmos.lineage import Lineage
from vmofs.core.vmos.sync import Syncs
from vmofs.status import NotSupportedError, OutOfRangeError, Status
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, PageRange, page_count
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account
    from vmofs.core.pages.frames import Frames
    from vmofs.core.requests.system import System

WRITE_BATCH_PAGES = 16
"""A write asks for at most this many pages at a time (zircon-pager 3.2; a tuning number, not API)."""

MAX_VMO_PAGES = MAX_VMO_BYTES // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class VmoOptions:
    """Creation options. Zircon: ZX_VMO_RESIZABLE, ZX_VMO_TRAP_DIRTY, ZX_VMO_UNBOUNDED; ``writeback``: see ``sync``.

    ``noevict``: pages go on command only, not when memory is short.
    """

    resizable: bool = False
    trap_dirty: bool = False
    unbounded: bool = False
    writeback: bool = False
    noevict: bool = False


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


class Maker(Protocol):
    """The pager that made a VMO."""

    def vmo_freed(self, vmo: PagerVmo) -> None:
        """Learn that a VMO is gone."""


class PagerVmo:
    """A VMO made by a pager: ``size_pages`` pages, of which ``stream_size`` bytes are the file's content.

    Calls that may wait for the pager return an ``Access``; those with ``nowait`` and those that return something else
    never wait. Ranges of bytes need no alignment; all calls but read, write and ZERO round them outward to pages.

    For the modules of the core that work on one VMO: ``runs`` and ``frames`` hold the pages, ``need_read`` and
    ``need_to_write`` say what to ask for, ``make_dirty``, ``put_zero``, ``free`` and ``mark_stale`` change pages. Only
    ``resize`` assigns to ``size_pages`` and ``stream_size``.
    """

    no_write = False
    """Only children can be made so."""

    __slots__ = (
        "__weakref__",
        "_gathering",
        "_maker",
        "always_needed",
        "lineage",
        "modified",
        "node",
        "options",
        "owner",
        "pins",
        "recency",
        "runs",
        "size_pages",
        "source",
        "stream_size",
        "syncs",
        "system",
        "unneeded",
    )

    def __init__(
        self,
        system: System,
        source: PageSource,
        stream_size: int,
        options: VmoOptions,
        maker: Maker,
        account: Account | None = None,
    ) -> None:
        self.system = system
        self.runs = RunMap(account)
        self.source = source
        self.options = options
        self.node = Node(system, self.runs, self, has_source=True)
        self.lineage = Lineage()
        self._maker = maker
        self.owner: object = None  # the edge's
        self.unneeded = RangeSet()
        """Pages that are evicted before others."""
        self.recency: Recency | None = None
        """Where uses are noted, if pages may be evicted for want of memory."""
        if system.eviction is not None and not options.noevict:
            self.recency = self.node.recency = system.eviction.join(self)
        self.pins = Pins(self)
        self._gathering: Pins | None = None  # most VMOs are never pinned
        self.always_needed = RangeSet()
        """Pages that are not evicted, present or not."""
        self.modified = False
        self.syncs = Syncs()
        self.stream_size = stream_size
        self.size_pages = MAX_VMO_PAGES if options.unbounded else page_count(stream_size)
        if options.unbounded:
            self.put_zero(PageRange(page_count(stream_size), self.size_pages), PageState.UNTRACKED)
        system.register(self, self.runs)

    @property
    def frames(self) -> Frames:
        """The memory that holds pages."""
        return self.system.frames

    @property
    def pinned(self) -> RangeSet:
        """The pages that are pinned."""
        return self.pins.pages

    @property
    def gathering(self) -> Pins:
        """Pages that are being brought in to be pinned: none must go before the others come."""
        if self._gathering is None:
            self._gathering = Pins(self)
        return self._gathering

    @property
    def committed_pages(self) -> int:
        """Pages that occupy memory."""
        return self.runs.committed_pages

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the runs of committed pages in a range, each of which is read without a copy."""
        return [run.range for run in self.runs.over(pages) if run.state in COMMITTED]

    def absent(self, pages: PageRange) -> PageRange:
        """Return the rest of a range from its first absent page on; the range itself if none is absent."""
        gaps = self.runs.gaps(pages)
        return PageRange(gaps[0].start, pages.end) if gaps else pages

    def state_at(self, page: int) -> PageState:
        """Return the state of one page."""
        return writeback.page_state(self.runs.at(page), page)

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside the VMO.

        Raises:
            OutOfRangeError: it overflows 64 bits, or ends beyond the size.
        """
        size = self.size_pages * PAGE_SIZE
        if offset + length > size:
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
        end = offset + length
        data = content.read_present(self.frames, self.runs, offset, end, gaps_are_zero=False)
        if self.recency is not None and data is not None:
            self.recency.used(offset // PAGE_SIZE, page_count(end))
        return data

    def used(self, pages: PageRange) -> None:
        """Note that present pages are used: they are the last to be evicted, and no longer unneeded."""
        if self.recency is not None:
            self.recency.used(*pages)

    def became_evictable(self, pages: PageRange) -> None:
        """Note that clean pages may be evicted now that could not be before."""
        if self.recency is not None:
            for run in self.runs.over(pages):
                if run.state is PageState.CLEAN:
                    self.recency.became_evictable(run.range)

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
            self.used(PageRange.of_bytes(position, stop - position))
            position = stop
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def need_read(self, pages: PageRange, wanted: int | None = None) -> Need:
        """Return the need for the gap at the start of ``pages``, as far as it goes."""
        self.source.check_attached()
        gap = PageRange(pages.start, self.runs.next_start(pages.start, pages.end))
        return Need(self.source, PacketCommand.READ, gap, wanted)

    # Writing

    def write(self, offset: int, data: Bytes) -> Access[int]:
        """Write bytes; absent pages are READ first, and under TRAP_DIRTY the pager is asked. Zircon: zx_vmo_write.

        Fails as ``read`` does. What was written before the failure stays written.
        """
        return Access(self.write_steps(offset, data))

    def write_steps(self, offset: int, data: Bytes, by: object = None) -> Steps[int]:
        """Write bytes, as steps of a larger call; ``by`` is the slice or reference that was written to."""
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
                written = PageRange.of_bytes(position, stop - position)
                self.used(written)
                self.node.changed(written, by or self)
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
            return Need(self.source, PacketCommand.DIRTY, writeback.first_run_in(self.runs, pages, present))
        # Committed pages become dirty together, before a byte is copied; zero pages one by one (zircon-pager 4.1).
        ready = writeback.first_run_in(self.runs, pages, COMMITTED) or PageRange(pages.start, pages.start + 1)
        self.make_dirty(ready, PageEvent.WRITE)
        return None

    def make_dirty(self, pages: PageRange, event: PageEvent) -> None:
        """Make present pages dirty, giving those that read as zeros a frame, and resolve DIRTY requests for them.

        Raises:
            NoMemoryError: nothing changed.
        """
        content.commit_zero(self.frames, self.runs, pages, PageState.DIRTY)
        writeback.make_dirty(self.runs, pages, event)
        self.source.resolve(PacketCommand.DIRTY, pages)

    def sync(self) -> Access[None]:
        """Wait until every page that is dirty now was written back; at once if the VMO was made without ``writeback``.

        Fails with what the pager failed the range with, BAD_STATE without a pager, TIMED_OUT at the deadline.
        """
        return Access(self.syncs.steps(self) if self.options.writeback else _nothing_to_wait_for())

    def op_zero(self, offset: int, length: int) -> Access[None]:
        """Zero bytes. Whole pages become a dirty zero interval without any request, also under TRAP_DIRTY.

        Parts of pages, and pinned pages, are written as by ``write``, which they also fail as. What was zeroed before
        a failure stays zeroed. Zircon: zx_vmo_op_range with ZX_VMO_OP_ZERO.
        """
        return Access(zero.zero_steps(self, offset, length))

    # The size

    def set_size(self, size: int) -> Access[None]:
        """Cut or extend the VMO to ``size`` bytes. What is cut off is gone; what is new is a dirty zero interval.

        The size changes at the start. If it is not page aligned, the rest of the last page is then zeroed by a write,
        which may wait, and whose failure is ignored. Fails with UNAVAILABLE when the VMO is not resizable, OUT_OF_RANGE
        above the largest VMO, BAD_STATE when a pinned page would be cut off; then nothing has changed.
        Zircon: zx_vmo_set_size.
        """
        return Access(resize.set_size_steps(self, size))

    def set_stream_size(self, size: int) -> Access[None]:
        """Set the size of the content, in bytes; everything beyond the old or the new one, if smaller, is zero then.

        The part of a page at the boundary is zeroed by a write, which may wait, and which this fails as. Also fails
        with OUT_OF_RANGE beyond the size of the VMO. Nothing else has changed after a failure.
        Zircon: zx_vmo_set_stream_size.
        """
        return Access(resize.set_stream_size_steps(self, size))

    # Bringing in, and hints

    def commit(self, offset: int, length: int) -> Access[None]:
        """Give every page a frame; absent ones are READ. Pages of zero intervals become dirty, under TRAP_DIRTY asked.

        Fails with OUT_OF_RANGE when the range does not lie inside the VMO, but not when it is cut off meanwhile; with
        what the pager failed pages with; NO_MEMORY. Zircon: zx_vmo_op_range with ZX_VMO_OP_COMMIT.
        """
        return Access(commit.commit_steps(self, offset, length))

    def prefetch(self, offset: int, length: int) -> Access[None]:
        """READ every absent page; nothing that is present changes. Fails as ``commit``. Zircon: ZX_VMO_OP_PREFETCH."""
        return Access(commit.prefetch_steps(self, offset, length))

    def always_need(self, offset: int, length: int) -> Access[None]:
        """READ every absent page and protect the range from eviction for good; pages that fail are skipped.

        Fails only with OUT_OF_RANGE. Zircon: ZX_VMO_OP_ALWAYS_NEED.
        """
        return Access(commit.always_need_steps(self, offset, length))

    def dont_need(self, offset: int, length: int) -> None:
        """Let pages go before others when memory is short, except those that are always needed.

        Raises:
            OutOfRangeError: the range does not lie inside the VMO.

        Zircon: ZX_VMO_OP_DONT_NEED.
        """
        self.check_inside(offset, length)
        hints.dont_need(self, PageRange.of_bytes(offset, length))

    def decommit(self, offset: int, length: int) -> None:
        """Refuse: what a pager VMO holds is not its user's to drop.

        Raises:
            OutOfRangeError: the range does not lie inside the VMO.
            NotSupportedError: always, unless the range is empty.

        Zircon: ZX_VMO_OP_DECOMMIT.
        """
        self.check_inside(offset, length)
        if length:
            raise NotSupportedError("pages of a pager VMO cannot be decommitted")

    def pin(self, offset: int, length: int, *, write: bool = False) -> Access[Pin]:
        """Bring pages in as ``commit`` does and keep them as they are until ``unpin``. A page may have many pins.

        With ``write`` they become dirty first, as by a write of the whole range in one piece. Fails as ``commit``, and
        with OUT_OF_RANGE also when the range is cut off meanwhile; then nothing is pinned. Zircon: zx_bti_pin.
        """
        return Access(commit.pin_steps(self, offset, length, write=write))

    # Supplying

    def insert(self, pages: PageRange, supplied: list[Run]) -> list[PageRange]:
        """Fill the gaps of ``pages`` with the frames of ``supplied`` (same page numbers), zeros where it has none.

        What is present is kept and its replacement freed. Returns the runs of newly filled pages, whose waiters woke.
        Zircon: zx_pager_supply_pages, step 7; the range was checked.
        """
        filled = self.runs.gaps(pages)
        if filled == [pages]:  # mostly
            self._fill(pages, supplied)
        else:
            fresh = RunMap()
            for run in supplied:
                fresh.put(run)
            for gap in filled:
                self._fill(gap, fresh.take(gap))
            content.free_runs(self.frames, fresh.take(pages))
        return filled

    def _fill(self, gap: PageRange, supplied: list[Run]) -> None:
        """Fill a gap with runs that lie in it, the rest with zeros, and wake who waits for it."""
        position = gap.start
        for run in supplied:
            if position < run.start:
                self.put_zero(PageRange(position, run.start), _SUPPLIED_ZERO)
            self.runs.put(run if run.state is _SUPPLIED else run.becomes(_SUPPLIED))
            position = run.end
            if self.recency is not None:
                self.recency.used(run.start, run.end)
        if position < gap.end:
            self.put_zero(PageRange(position, gap.end), _SUPPLIED_ZERO)
        if self.recency is not None:
            self.recency.supplied(gap)
        if self.stream_size < gap.end * PAGE_SIZE:
            self._zero_beyond_stream(gap)
        self.source.resolve(PacketCommand.READ, gap)

    def _zero_beyond_stream(self, filled: PageRange) -> None:
        """Clear what was supplied beyond the end of the content in its last page: no reader may ever see it."""
        tail = -self.stream_size % PAGE_SIZE
        page = self.stream_size // PAGE_SIZE
        run = self.runs.at(page) if tail and page in filled else None
        if run is not None and run.state in COMMITTED:
            content.write_committed(self.frames, self.runs, self.stream_size, content.zeros(tail))

    def put_zero(self, pages: PageRange, state: PageState) -> None:
        """Make gaps zeros without a frame."""
        if pages:
            self.runs.put(Run(pages.start, pages.end, state))

    # The end

    def pager_closed(self) -> None:
        """Lose the pager: waiters are to get BAD_STATE, all pages stay, and no packet is left behind."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.PAGER_CLOSED
        self.source.withdraw_all()

    def evictable(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of a range that may be dropped: clean, not pinned, not always needed; each is of one run."""
        return [
            free
            for run in self.runs.over(pages)
            if after(run.state, PageEvent.EVICT) is PageState.GAP
            for part in self.pinned.missing(run.range)
            for free in self.always_needed.missing(part)
        ]

    def evict(self, pages: PageRange) -> list[PageRange]:
        """Drop what is evictable in a range; return what was dropped. The next access asks again."""
        return self.drop(self.evictable(pages))

    def evict_idle(self, pages: PageRange, spared: RangeSet) -> list[PageRange]:
        """Drop what is evictable in a range, except pages being gathered or in the frames ``spared``; return what went.

        Nothing is if no pager could bring it again: present pages of a closed pager stay readable.
        """
        if self.source.state is not SourceState.ATTACHED:
            return []
        parts = self.evictable(pages)
        if self._gathering is not None:
            parts = [free for part in parts for free in self._gathering.pages.missing(part)]
        if spared:
            parts = [free for part in parts for free in self._outside(part, spared)]
        return self.drop(parts)

    def _outside(self, pages: PageRange, spared: RangeSet) -> list[PageRange]:
        """Return the parts of pages of one run that are not in the frames ``spared``."""
        run = self.runs.at(pages.start)
        assert run is not None
        shift = run.frame - run.start
        return [part.moved(-shift) for part in spared.missing(pages.moved(shift))]

    def next_present(self, page: int, limit: int) -> int:
        """Return the first present page from ``page`` on, at most ``limit``."""
        return page if self.runs.at(page) is not None else self.runs.next_start(page, limit)

    def drop(self, parts: list[PageRange]) -> list[PageRange]:
        """Turn pages into gaps; return them, coalesced."""
        dropped = RangeSet()
        taken: list[Run] = []
        for part in parts:
            taken += self.runs.take(part)
            dropped.add(part)
        content.free_runs(self.frames, taken)
        for part in dropped:
            self.mark_stale(part)
        return list(dropped)

    def free(self, pages: PageRange) -> None:
        """Make pages gaps, whatever they are, and give their frames back."""
        content.free_runs(self.frames, self.runs.take(pages))

    def mark_stale(self, pages: PageRange) -> None:
        """Note that the bytes of these pages have changed or gone, other than by a write."""
        self.node.changed(pages)

    def charge_to(self, account: Account | None) -> None:
        """Let its pages be another's from now on, whatever his limits."""
        self.runs.charge_to(account)

    def close(self) -> None:
        """Give up the handle. When no child needs the VMO either, it is freed, and COMPLETE is sent unless it was."""
        self.lineage.close()
        self.node.close(self)

    def freed(self) -> None:
        """End, for the family: the last reference is gone."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.DETACHED
            self.source.fail_all(Status.BAD_STATE)
            self.source.send_complete()
        self.system.unregister(self)
        if self.recency is not None:
            self.recency.leave()
        self.runs.count_besides(0)
        self._maker.vmo_freed(self)

    @property
    def dirty_pages(self) -> int:
        """Pages that were not written back, zeros and those that await it included. Costs nothing to ask."""
        return sum(map(self.runs.pages_in, (PageState.DIRTY, PageState.AWAITING, PageState.ZERO)))

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
        """Assert that pages lie inside, pinned ones have frames, and the content ends before what is untracked."""
        self.runs.check()
        self.node.check()
        self.source.check()
        self.pins.check()
        if self._gathering is not None:
            self._gathering.check()
        if self.recency is not None and self.source.state is SourceState.ATTACHED:
            ends = (
                page for part in self.evictable(PageRange(0, self.size_pages)) for page in (part.start, part.end - 1)
            )
            assert all(self.recency.has(page) for page in ends)
        assert not self.runs.whole_over(PageRange(self.size_pages, MAX_VMO_PAGES))
        for part in self.pinned:
            assert writeback.first_run_in(self.runs, part, COMMITTED) == part, part
        inside = self.runs.over(PageRange(0, page_count(self.stream_size)))
        assert not any(run.state is PageState.UNTRACKED for run in inside)


def _nothing_to_wait_for() -> Steps[None]:
    yield from ()


_PRESENT = frozenset(PageState) - {PageState.GAP}
_SUPPLIED = after(PageState.GAP, PageEvent.SUPPLY_PAGE)
_SUPPLIED_ZERO = after(PageState.GAP, PageEvent.SUPPLY_ZERO)
