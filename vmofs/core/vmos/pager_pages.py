"""The pages of a VMO that a pager made: the root of a family, where gaps are asked for and what is dirty is tracked.

Rules:

* A page is in one of the states of ``pages.states``, and changes only by the events of that table.
* A gap is filled by ``insert`` alone, or by zeros that the pager does not have to know of. Who waits for it is woken in
  the same call, as is who waits for a page to become dirty.
* Whatever takes bytes away that somebody outside may have a copy of calls ``changed``, and whatever makes a page
  evictable tells ``recency``.

What changes with it: ``dirty``, which does the same on runs without a source, and ``resize`` and ``zero``, which move
the boundary between the content and the untracked zeros behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vmofs.core.pages import content, dirty
from vmofs.core.pages.pins import Pins
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import NO_FRAME, Run, RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import COMMITTED, PageEvent, PageState, after
from vmofs.core.requests.access import Need
from vmofs.core.requests.page_source import PageSource, SourceStatistics
from vmofs.core.requests.request import SourceState
from vmofs.core.vmos.sync import Syncs
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.status import Status
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account
    from vmofs.core.pages.content import Bytes
    from vmofs.core.requests.request import Reader
    from vmofs.core.requests.system import System
    from vmofs.core.vmos.cow_pages import CowPages, Viewer


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

    def vmo_freed(self, vmo: object) -> None:
        """Learn that a VMO is gone."""


class PagerPages(VmoPages):
    """The pages behind a page source: ``size_pages`` of them, of which ``stream_size`` bytes are the file's content.

    ``need_read`` and ``make_writable`` say what to ask for, ``make_dirty``, ``put_zero``, ``clear`` and ``free`` change
    pages.
    """

    __slots__ = (
        "_gathering",
        "_maker",
        "always_needed",
        "modified",
        "options",
        "source",
        "syncs",
        "unneeded",
    )

    def __init__(
        self,
        system: System,
        owner: Viewer,
        source: PageSource,
        stream_size: int,
        options: VmoOptions,
        maker: Maker,
        account: Account | None = None,
    ) -> None:
        super().__init__(
            system, owner, stream_size, resizable=options.resizable, account=account, has_source=True, told=self
        )
        self.source = source
        self.options = options
        self._maker = maker
        self.unneeded = RangeSet()
        """Pages that are evicted before others."""
        if system.eviction is not None and not options.noevict:
            self.recency = system.eviction.join(self)
        self._gathering: Pins | None = None  # most VMOs are never pinned
        self.always_needed = RangeSet()
        """Pages that are not evicted, present or not."""
        self.modified = False
        self.syncs = Syncs()
        if options.unbounded:
            self.size_pages = ALL_PAGES.end
            self.put_zero(PageRange(page_count(stream_size), self.size_pages), PageState.UNTRACKED)

    @property
    def gathering(self) -> Pins:
        """Pages that are being brought in to be pinned: none must go before the others come."""
        if self._gathering is None:
            self._gathering = Pins(self)
        return self._gathering

    # Asking

    def need_read(self, gap: PageRange, wanted: int | None = None) -> Need:
        """Return the need for absent pages, those that are asked for in one request.

        Raises:
            BadStateError: there is no pager to ask.
        """
        source = self.source
        if source.state is not SourceState.ATTACHED:
            source.check_attached()
        return tuple.__new__(Need, (source, PacketCommand.READ, gap, wanted))

    def _need_first(self, pages: PageRange) -> Need:
        """Return the need for the gap at the start of ``pages``, as far as it goes."""
        return self.need_read(PageRange(pages.start, self.runs.next_start(*pages)))

    def make_writable(self, pages: PageRange) -> Need | PageRange:
        """Make the first page of ``pages`` dirty, and those that go with it; return them, or what must be asked first.

        Under TRAP_DIRTY no page becomes dirty but by the pager.
        """
        run = self.runs.at(pages.start)
        if run is None:
            return self._need_first(pages)
        if run.state is not PageState.DIRTY:
            if self.options.trap_dirty:
                self.source.check_attached()
                return Need(self.source, PacketCommand.DIRTY, dirty.first_run_in(self.runs, pages, _NOT_DIRTY))
            # Committed pages become dirty together, before a byte is copied; zeros one by one (zircon-pager 4.1).
            ready = dirty.first_run_in(self.runs, pages, COMMITTED) or PageRange(pages.start, pages.start + 1)
            self.make_dirty(ready, PageEvent.WRITE)
        return dirty.first_run_in(self.runs, pages, _DIRTY)

    def commit_some(self, pages: PageRange) -> Need | PageRange:
        """Give the run at the start of a range frames: a gap is asked for, markers stay clean, zeros become dirty.

        The last is a change that the pager does not know of, so under TRAP_DIRTY it is asked (CommitExtendedTail); a
        DIRTY covers zero pages only: clean ones are committed already and must not become dirty (NoDirtyOnCommit).
        What is returned may reach beyond the range.
        """
        run = self.runs.at(pages.start)
        if run is None:
            return self._need_first(pages)
        if run.state in _DIRTY_ZEROS:
            zero = dirty.first_run_in(self.runs, pages, _DIRTY_ZEROS)
            if self.options.trap_dirty:
                self.source.check_attached()
                return Need(self.source, PacketCommand.DIRTY, zero)
            self.make_dirty(zero, PageEvent.COMMIT)
        elif run.state is PageState.MARKER:
            part = run.range & pages
            content.commit_zero(self.frames, self.runs, part, after(run.state, PageEvent.COMMIT))
            self.used(part)
        return run.range

    @property
    def idle_pages(self) -> int:
        """How many pages may be evicted, at least: of those that are pinned some may be counted twice."""
        return max(0, self.runs.pages_in(PageState.CLEAN) - self.pinned.pages - self.always_needed.pages)

    def used(self, pages: PageRange) -> None:
        """Note that pages with frames are used: they are the last to be evicted, and no longer unneeded."""
        if self.recency is not None:
            self.recency.used(*pages)

    def count_hints(self) -> None:
        """Have who pays for the pages pay for the ranges of hints and marks too."""
        marks = len(self.source.marked or ())
        self.runs.count_besides(len(self.always_needed) + len(self.unneeded) + marks)

    def forget_marks(self) -> None:
        """Forget what is marked: nobody is left to be told."""
        self.source.marked = None
        self.count_hints()

    def became_evictable(self, pages: PageRange) -> None:
        """Note that clean pages may be evicted now that could not be before."""
        if self.recency is not None:
            for run in self.runs.over(pages):
                if run.state is PageState.CLEAN:
                    self.recency.became_evictable(run.range)

    # Changing

    def written(self, pages: PageRange, by: object) -> None:
        """Note that bytes of dirty pages were written through the handle ``by``; None: nobody has the new bytes."""
        self.modified = True
        self.used(pages)
        self.changed(pages, by)

    def make_dirty(self, pages: PageRange, event: PageEvent) -> None:
        """Make present pages dirty, giving those that read as zeros a frame, and resolve DIRTY requests for them.

        Raises:
            NoMemoryError: nothing changed.
        """
        content.commit_zero(self.frames, self.runs, pages, PageState.DIRTY)
        dirty.make_dirty(self.runs, pages, event)
        self.source.resolve(PacketCommand.DIRTY, pages)

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

    def answer(self, page: int, data: Bytes) -> list[Reader]:
        """Fill the page of a miss, whose every byte is content, and end it; return who waits for these bytes.

        What ``insert`` does, for one page that is known to be a gap.

        Raises:
            NoMemoryError: nothing changed.
        """
        (held,) = self.frames.allocate(1, filled=True, account=self.runs.account)
        self.frames.write(held, 0, data)
        self.runs.put(tuple.__new__(Run, (page, page + 1, _SUPPLIED, held.frame, 0)))
        if self.recency is not None:
            self.recency.used(page, page + 1)
            self.recency.supplied(PageRange(page, page + 1))
        return self.source.port.end_miss(self.source, page)

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

    def clear(self, pages: PageRange, state: PageState, keep: frozenset[PageState]) -> None:
        """Turn pages into zeros of ``state``, except those in the states ``keep``; readers of the gaps wake.

        Frames are given back. Pinned pages are zeroed where they are, and become dirty.
        """
        gaps = self.runs.gaps(pages)
        for run in self.runs.over(pages):
            if run.state in keep:
                continue
            for part in self.pinned.over(run.range):
                content.wipe_committed(self.frames, self.runs, part.offset, part.end * PAGE_SIZE)
                self.make_dirty(part, PageEvent.WRITE)
                self.changed(part)
            for part in self.pinned.missing(run.range):
                if run.state in COMMITTED:
                    self.changed(part)
                self.free(part)
                self.put_zero(part, state)
        for gap in gaps:
            self.put_zero(gap, state)
            self.source.resolve(PacketCommand.READ, gap)

    def zero_whole(self, pages: PageRange) -> None:
        """Make whole pages a dirty zero interval, unless they read as zeros anyway."""
        self.clear(pages, PageState.ZERO, keep=_READ_AS_ZERO)
        self.modified = True

    def free(self, pages: PageRange) -> None:
        """Make pages gaps, whatever they are, and give their frames back."""
        content.free_runs(self.frames, self.runs.take(pages))

    # The size

    def check_new_size(self, size: int) -> None:
        """Check that the size may become ``size`` bytes.

        Raises:
            VmoError: as for VMOs of other kinds.
            NoMemoryError: it grows, and who pays has too many ranges.
        """
        super().check_new_size(size)
        if size > self.stream_size:
            self.runs.check_ranges()

    def first_to_cut(self, first: int) -> int:
        """Return from where on no more lies behind, pages or requests, than is cut off in one go."""
        requests = self.source.outstanding(PacketCommand.READ)
        return max(super().first_to_cut(first), requests.reach_back(first, self.size_pages, SLICE))

    def resize(self, size: int) -> None:
        """Change the size, and that of the content, at once; what is new is a dirty zero interval."""
        old, new = self.size_pages, page_count(size)
        beyond_stream = PageRange(page_count(self.stream_size), new)
        if size != self.stream_size:
            self.syncs.size_changed()
        self.size_pages, self.stream_size = new, size
        self.modified = True
        self._cut_off(PageRange(new, old))
        for run in self.runs.over(beyond_stream):
            if run.state is PageState.UNTRACKED:  # now inside
                self.clear(run.range, PageState.ZERO, keep=frozenset())
        self.put_zero(PageRange(old, new), PageState.ZERO)

    def tail_after(self, size: int) -> int:
        """Return from which byte on the rest of a page is to be zeroed. Beyond the old content all is zero."""
        return size

    def sink(self, size: int) -> None:
        """Sink to a size on the way to a smaller one. Up to there all is content: what lies behind it is untracked."""
        self.resize(size)

    def _cut_off(self, pages: PageRange) -> None:
        """Free the pages beyond the new size, and count as resolved what is asked of them.

        Pages that were supplied, or became dirty, while the request for them was outstanding were counted then.
        """
        absent = self.runs.gaps(pages)
        undecided = RangeSet()
        undecided.add(pages)
        for run in self.runs.over(pages):
            self.changed(run.range)
            if run.state is PageState.DIRTY:
                undecided.discard(run.range)
        self.free(pages)
        self.cut_children(pages.start)
        for hints in (self.always_needed, self.unneeded, self.source.marked):
            if hints is not None:
                hints.discard(pages)
        self.source.marked = self.source.marked or None
        for part in absent:
            self.source.resolve(PacketCommand.READ, part)
        for part in undecided:
            self.source.resolve(PacketCommand.DIRTY, part)
        self.written_back(pages)

    def move_content_end(self, size: int) -> None:
        """Let the content end after ``size`` bytes, at once. Pages beyond that or its old end become zeros."""
        first, last = page_count(min(self.stream_size, size)), page_count(size)
        self.clear(PageRange(first, last), PageState.ZERO, keep=frozenset({PageState.ZERO}))
        beyond = PageRange(last, self.size_pages)
        self.untrack(beyond)
        self.stream_size = size
        self.modified = True
        self.syncs.size_changed()
        self.written_back(beyond)

    def untrack(self, pages: PageRange) -> None:
        """Make pages beyond the content zeros that are nobody's to write back."""
        self.clear(pages, PageState.UNTRACKED, keep=frozenset({PageState.UNTRACKED}))

    def written_back(self, pages: PageRange) -> None:
        """Wake who waited for pages of a range that are clean, or gone, by now."""
        self.syncs.written_back(self.source, self.runs, pages)

    # Dropping

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

    def next_piece(self, page: int, limit: int, most_pages: int) -> PageRange:
        """Return the first present pages in ``[page, limit)``: so many at most, or all of a run without frames."""
        start = page if self.runs.at(page) is not None else self.runs.next_start(page, limit)
        run = self.runs.at(start) if start < limit else None
        if run is not None and run.frame == NO_FRAME:
            return PageRange(start, min(limit, run.end))
        return PageRange(start, min(limit, start + most_pages))

    def has_frames(self, pages: PageRange) -> bool:
        """Return whether any page of a range has a frame."""
        return any(run.frame != NO_FRAME for run in self.runs.whole_over(pages))

    def drop(self, parts: list[PageRange]) -> list[PageRange]:
        """Turn pages into gaps; return them, coalesced."""
        dropped = RangeSet()
        taken: list[Run] = []
        for part in parts:
            taken += self.runs.take(part)
            dropped.add(part)
        content.free_runs(self.frames, taken)
        for part in dropped:
            self.changed(part)
        return list(dropped)

    # The end

    def pager_closed(self) -> None:
        """Lose the pager: waiters are to get BAD_STATE, all pages stay, and no packet is left behind."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.PAGER_CLOSED
            self.forget_marks()
        self.source.withdraw_all()

    def freed(self, owner: Viewer | CowPages) -> None:
        """End with the last who needed the pages: COMPLETE is sent, unless it was."""
        if self.source.state is SourceState.ATTACHED:
            self.source.state = SourceState.DETACHED
            self.source.fail_all(Status.BAD_STATE)
            self.source.send_note(PacketCommand.COMPLETE)
        self.system.unregister(owner)
        if self.recency is not None:
            self.recency.leave()
        self.runs.count_besides(0)
        self._maker.vmo_freed(owner)

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
        super().check()
        self.source.check()
        for source, page in self.source.port.misses if self.source.state is SourceState.ATTACHED else ():
            assert source is not self.source or (
                self.runs.at(page) is None and (page + 1) * PAGE_SIZE <= self.stream_size
            )
        if self._gathering is not None:
            self._gathering.check()
        if self.recency is not None and self.source.state is SourceState.ATTACHED:
            ends = (
                page for part in self.evictable(PageRange(0, self.size_pages)) for page in (part.start, part.end - 1)
            )
            assert all(self.recency.has(page) for page in ends)
        inside = self.runs.over(PageRange(0, page_count(self.stream_size)))
        assert not any(run.state is PageState.UNTRACKED for run in inside)


_DIRTY = frozenset({PageState.DIRTY})
_NOT_DIRTY = frozenset(PageState) - {PageState.GAP, PageState.DIRTY}
_DIRTY_ZEROS = frozenset({PageState.ZERO, PageState.UNTRACKED})
_READ_AS_ZERO = _DIRTY_ZEROS | {PageState.MARKER}
_SUPPLIED = after(PageState.GAP, PageEvent.SUPPLY_PAGE)
_SUPPLIED_ZERO = after(PageState.GAP, PageEvent.SUPPLY_ZERO)
