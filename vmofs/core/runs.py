"""The pages of one object: an ordered map of disjoint runs of pages, each in one state.

What a VMO costs is its runs, not its size: a gap is the absence of a run, a gigabyte supplied in one piece is one run.
Neighbours that continue each other (same state, consecutive frames) are kept as one.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sortedcontainers import SortedDict

from vmofs.core.frames import FrameRun
from vmofs.core.states import COMMITTED, PageState
from vmofs.units import PageRange

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


class RunMap:
    """Disjoint runs in page order. Every operation costs O(log n) in the number of runs plus the runs it touches."""

    __slots__ = ("_counts", "_runs")

    def __init__(self) -> None:
        self._runs: SortedDict[int, Run] = SortedDict()
        self._counts: Counter[PageState] = Counter()

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._runs)

    @property
    def committed_pages(self) -> int:
        """Pages that have a frame."""
        counts = self._counts
        return counts[PageState.CLEAN] + counts[PageState.DIRTY] + counts[PageState.AWAITING]

    def pages_in(self, state: PageState) -> int:
        """Return the number of pages in a stored state; ZERO counts those awaiting clean too."""
        return self._counts[state]

    def at(self, page: int) -> Run | None:
        """Return the whole run that holds the page, None for a gap."""
        for start in self._runs.irange(maximum=page, reverse=True):
            run: Run = self._runs[start]
            return run if page < run.end else None
        return None

    def whole_over(self, pages: PageRange) -> list[Run]:
        """Return the runs that have a page in ``pages``, uncut, ascending."""
        if not pages:
            return []
        first = self.at(pages.start)
        starts = self._runs.irange(first.start if first else pages.start, pages.end, inclusive=(True, False))
        return [self._runs[start] for start in starts]

    def over(self, pages: PageRange) -> list[Run]:
        """Return the runs in ``pages``, cut to it, ascending."""
        runs = self.whole_over(pages)
        for end in {0, len(runs) - 1} if runs else ():
            runs[end] = runs[end].cut(pages)
        return runs

    def gaps(self, pages: PageRange) -> list[PageRange]:
        """Return the absent parts of ``pages``, ascending."""
        gaps, position = [], pages.start
        for run in self.whole_over(pages):
            if run.start > position:
                gaps.append(PageRange(position, run.start))
            position = run.end
        if position < pages.end:
            gaps.append(PageRange(position, pages.end))
        return gaps

    def next_start(self, page: int, limit: int) -> int:
        """Return where the first run at or after ``page`` starts, at most ``limit``."""
        return next(self._runs.irange(page, limit), limit)

    def take(self, pages: PageRange) -> list[Run]:
        """Remove what is in ``pages`` and return it, cut to it, ascending. What is left of cut runs stays."""
        taken = []
        for run in self.whole_over(pages):
            self._drop(run)
            taken.append(run.cut(pages))
            if run.start < pages.start:
                self._insert(run._replace(end=pages.start))
            if run.end > pages.end:
                rest = run.cut(PageRange(pages.end, run.end))
                if pages.start <= run.start:  # split at the very start: the awaiting length moves on
                    rest = rest._replace(awaiting=max(0, run.awaiting - (pages.end - run.start)))
                self._insert(rest)
        return taken

    def put(self, run: Run) -> None:
        """Store a run where there is a gap; it melts into neighbours that it continues."""
        left = self.at(run.start - 1)
        if left is not None and run.continues(left):
            self._drop(left)
            run = left._replace(end=run.end)
        right = self._runs.get(run.end)
        if right is not None and right.continues(run):
            self._drop(right)
            run = run._replace(end=right.end)
        self._insert(run)

    def swap(self, other: RunMap) -> None:
        """Exchange the contents of two maps; the size does not matter."""
        self._runs, other._runs = other._runs, self._runs
        self._counts, other._counts = other._counts, self._counts

    def set_awaiting(self, start: int, awaiting: int) -> None:
        """Set the awaiting length of the zero interval that starts at ``start``."""
        self._runs[start] = self._runs[start]._replace(awaiting=awaiting)

    def _insert(self, run: Run) -> None:
        self._runs[run.start] = run
        self._counts[run.state] += run.end - run.start

    def _drop(self, run: Run) -> None:
        del self._runs[run.start]
        self._counts[run.state] -= run.end - run.start

    def frames(self) -> list[FrameRun]:
        """Return all frames that the pages hold."""
        return [frames for run in self._runs.values() if (frames := run.frames)]

    def check(self) -> None:
        """Assert that runs are disjoint, in order, melted where possible, with frames exactly where committed."""
        counts: Counter[PageState] = Counter()
        last: Run | None = None
        for start, run in self._runs.items():
            assert start == run.start < run.end, run
            assert (run.frame != NO_FRAME) == (run.state in COMMITTED), run
            assert run.awaiting == 0 or run.state is PageState.ZERO, run
            if last is not None:
                assert last.end <= run.start, (last, run)
                assert last.end < run.start or not run.continues(last), (last, run)
            counts[run.state] += run.end - run.start
            last = run
        assert counts == +self._counts, (counts, self._counts)
