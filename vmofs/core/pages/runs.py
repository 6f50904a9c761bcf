"""The pages of one object: an ordered map of disjoint runs of pages, each in one state.

What a VMO costs is its runs, not its size: a gap is the absence of a run, a gigabyte supplied in one piece is one run.
Neighbours that continue each other (same state, consecutive frames) are kept as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmofs.core.pages.frames import FrameRun
from vmofs.core.pages.spans import Span, Spans
from vmofs.core.pages.states import COMMITTED, PageState
from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account

NO_FRAME = -1


class Run(NamedTuple):
    """Pages ``[start, end)`` in one state.

    ``frame`` is the frame of the first page, the others follow; NO_FRAME where the state has none. ``awaiting`` is used
    by ZERO only: how many pages, counted from ``start``, are awaiting clean. It may exceed the run: a write that splits
    an interval leaves the length with the left piece, and an END that covers its start reaches the right one
    (zircon-pager 4.6).
    """

    start: int
    end: int
    state: PageState
    frame: int = NO_FRAME
    awaiting: int = 0

    @property
    def range(self) -> PageRange:
        """The pages as a range."""
        return PageRange(self.start, self.end)

    @property
    def frames(self) -> FrameRun | None:
        """The frames that hold the pages, None for zero pages."""
        return None if self.frame == NO_FRAME else FrameRun(self.frame, self.end - self.start)

    def cut(self, pages: PageRange) -> Run:
        """Return the part of the run in ``pages``, which must not be empty."""
        start, end = max(self.start, pages.start), min(self.end, pages.end)
        skipped = start - self.start
        frame = self.frame + skipped if self.frame != NO_FRAME else NO_FRAME
        return Run(start, end, self.state, frame, self.awaiting if skipped == 0 else 0)

    def moved(self, pages: int) -> Run:
        """Return the same run ``pages`` pages further on."""
        return self._replace(start=self.start + pages, end=self.end + pages)

    def becomes(self, state: PageState) -> Run:
        """Return the run in another state, frames and all."""
        return Run(self.start, self.end, state, self.frame)

    def continues(self, left: Run) -> bool:
        """Return whether ``left``, which ends where this run starts, and this run can be one."""
        if left.state is not self.state:
            return False
        return self.frame == NO_FRAME or left.frame + (left.end - left.start) == self.frame


_STATES = tuple(PageState)
_CODE_BITS = 3  # the lowest bits of a span's number are the code of the state, those above the frame
_CODE_MASK = 2**_CODE_BITS - 1
_CLEAN, _DIRTY, _AWAITING = PageState.CLEAN.code, PageState.DIRTY.code, PageState.AWAITING.code
_NO_COUNTS = [0] * len(_STATES)  # these two are replaced, never changed
_NO_AWAITING: dict[int, int] = {}


class RunMap(Spans):
    """Disjoint runs in page order. Every operation costs O(log n) in the number of runs plus the runs it touches.

    ``account`` is whose pages they are; None is nobody's.
    """

    __slots__ = ("_awaiting", "_besides", "_counts", "account")

    def __init__(self, account: Account | None = None) -> None:
        super().__init__()
        self.account = account
        self._besides = 0
        self._counts = _NO_COUNTS  # pages, by code of the state
        self._awaiting = _NO_AWAITING  # start of an interval -> its awaiting length

    @property
    def committed_pages(self) -> int:
        """Pages that have a frame."""
        counts = self._counts
        return counts[_CLEAN] + counts[_DIRTY] + counts[_AWAITING]

    @property
    def present_pages(self) -> int:
        """Pages that are in some run."""
        return sum(self._counts)

    def pages_in(self, state: PageState) -> int:
        """Return the number of pages in a stored state; ZERO counts those awaiting clean too."""
        return self._counts[state.code]

    def at(self, page: int) -> Run | None:
        """Return the whole run that holds the page, None for a gap."""
        span = self._span_at(page)
        return None if span is None else self._run(span)

    def frames_from(self, page: int) -> FrameRun | None:
        """Return the frames from that of a page on, as far as its run goes; None if it has none."""
        span = self._span_at(page)
        if span is None or span[2] < 0:
            return None
        start, end, number = span
        return tuple.__new__(FrameRun, ((number >> _CODE_BITS) + page - start, end - page))

    def _run(self, span: Span) -> Run:
        start, end, number = span
        awaiting = self._awaiting.get(start, 0) if self._awaiting else 0
        return tuple.__new__(Run, (start, end, _STATES[number & _CODE_MASK], number >> _CODE_BITS, awaiting))

    def whole_over(self, pages: PageRange) -> list[Run]:
        """Return the runs that have a page in ``pages``, uncut, ascending."""
        return [self._run(span) for span in self._spans_over(*pages)]

    def over(self, pages: PageRange) -> list[Run]:
        """Return the runs in ``pages``, cut to it, ascending."""
        runs = self.whole_over(pages)
        if runs:
            if runs[0].start < pages.start:
                runs[0] = runs[0].cut(pages)
            if runs[-1].end > pages.end:
                runs[-1] = runs[-1].cut(pages)
        return runs

    def gaps(self, pages: PageRange) -> list[PageRange]:
        """Return the absent parts of ``pages``, ascending."""
        gaps = []
        position, limit = pages
        for start, end, _ in self._spans_over(position, limit):
            if start > position:
                gaps.append(PageRange(position, start))
            position = end
        if position < limit:
            gaps.append(PageRange(position, limit))
        return gaps

    def take(self, pages: PageRange) -> list[Run]:
        """Remove what is in ``pages`` and return it, cut to it, ascending. What is left of cut runs stays."""
        start, end = pages
        if not self._blocks or start >= end:
            return []
        number, block, place, stop = self._find(start, end)
        taken = [self._run(span) for span in block.get(place, stop)]
        if not taken:
            return []
        if self._awaiting:
            self._take_awaiting(pages, taken)
        if self.account is not None:
            self._discharge(pages, taken)
        rests = []
        first, last = taken[0], taken[-1]
        if first.start < start:
            rests.append((first.start, start, first.frame << _CODE_BITS | first.state.code))
            taken[0] = first.cut(pages)
        if last.end > end:
            rest = last.cut(PageRange(end, last.end))
            rests.append((end, last.end, rest.frame << _CODE_BITS | rest.state.code))
            taken[-1] = taken[-1].cut(pages)
        block.put(place, stop, rests)
        self._changed(number, block)
        for run in taken:
            self._counts[run.state.code] -= run.end - run.start
        return taken

    def _discharge(self, pages: PageRange, taken: list[Run]) -> None:
        """Count in the account what is taken: whole runs as yet."""
        account = self.account
        assert account is not None
        for run in taken:
            if run.frame == NO_FRAME:
                account.ranges += (run.start < pages.start) + (run.end > pages.end) - 1
            else:
                account.pages -= min(run.end, pages.end) - max(run.start, pages.start)

    def _take_awaiting(self, pages: PageRange, taken: list[Run]) -> None:
        """Forget the lengths of intervals that are taken. Split at its very start, an interval hands on the rest."""
        for run in taken:
            if run.start >= pages.start:
                left = self._awaiting.pop(run.start, 0) - (pages.end - run.start)
                if left > 0 and run.end > pages.end:
                    self._awaiting[pages.end] = left

    def put(self, run: Run) -> None:
        """Store a run where there is a gap; it melts into neighbours that it continues."""
        start, end, state, frame, awaiting = run
        if self._counts is _NO_COUNTS:
            self._counts = [*_NO_COUNTS]
        self._counts[state.code] += end - start
        step = 0 if frame == NO_FRAME else 1 << _CODE_BITS
        melted = self._insert(start, end, frame << _CODE_BITS | state.code, step)
        account = self.account
        if account is not None:
            if step:
                account.pages += end - start
            else:
                account.ranges += 1 - (melted[0] < start) - (melted[1] > end)
        if awaiting and melted[0] == start:
            self.set_awaiting(start, awaiting)
        if self._awaiting and melted[1] > end:
            self._awaiting.pop(end, None)

    def charge_to(self, account: Account | None) -> None:
        """Let all pages be another's from now on, whatever his limits."""
        pages, ranges = self.committed_pages, self.frameless_ranges()
        if self.account is not None:
            self.account.pages -= pages
            self.account.ranges -= ranges
        self.account = account
        if account is not None:
            account.pages += pages
            account.ranges += ranges

    def check_ranges(self) -> None:
        """Check that who pays may have some more ranges.

        Raises:
            NoMemoryError: he may not.
        """
        if self.account is not None:
            self.account.check_ranges()

    def frameless_ranges(self) -> int:
        """Return how many runs have no frames, by looking, and the ranges besides."""
        return sum(value < 0 for block in self._blocks for value in block.values) + self._besides

    def count_besides(self, ranges: int) -> None:
        """Count ranges that are kept beside these runs, for the same payer."""
        if self.account is not None:
            self.account.ranges += ranges - self._besides
            self._besides = ranges

    def swap(self, other: RunMap) -> None:
        """Exchange the contents of two maps of the same account; the size does not matter."""
        assert self.account is other.account
        self._blocks, other._blocks = other._blocks, self._blocks
        self._heads, other._heads = other._heads, self._heads
        self._counts, other._counts = other._counts, self._counts
        self._awaiting, other._awaiting = other._awaiting, self._awaiting

    def set_awaiting(self, start: int, awaiting: int) -> None:
        """Set the awaiting length of the zero interval that starts at ``start``."""
        if self._awaiting is _NO_AWAITING:
            self._awaiting = {}
        self._awaiting[start] = awaiting

    def frames(self) -> list[FrameRun]:
        """Return all frames that the pages hold."""
        runs = (self._run(span) for span in self._spans())
        return [frames for run in runs if (frames := run.frames)]

    def check(self) -> None:
        """Assert that runs are disjoint, in order, melted where possible, with frames exactly where committed."""
        super().check()
        counts = [0] * len(_STATES)
        last: Run | None = None
        for run in map(self._run, self._spans()):
            assert (run.frame != NO_FRAME) == (run.state in COMMITTED), run
            assert run.awaiting == 0 or run.state is PageState.ZERO, run
            assert last is None or last.end < run.start or not run.continues(last), (last, run)
            counts[run.state.code] += run.end - run.start
            last = run
        assert counts == self._counts, (counts, self._counts)
        zeros = {run.start for run in map(self._run, self._spans()) if run.state is PageState.ZERO}
        assert self._awaiting.keys() <= zeros
