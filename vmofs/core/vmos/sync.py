"""Waiting until what is dirty was written back: fsync for VMOs whose pager takes part in it.

Zircon has no such call: there a filesystem is its own pager. Its page source does know a third kind of request, though,
WRITEBACK, which no user pager declares. A VMO made with the option ``writeback`` declares it: waiting for dirty pages
asks for them with WRITEBACK, and the pager answers with WRITEBACK_BEGIN, its own work, and WRITEBACK_END, or by failing
the range.

The size of the VMO is written back too, like one more page behind all others: a change makes it dirty, any BEGIN makes
it awaiting clean, any END after that clean. If it alone is dirty, the request has offset and length 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages.dirty import dirty_ranges
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.states import PageEvent, PageState, after
from vmofs.core.requests.access import Need, Steps
from vmofs.core.requests.request import SIZE_PAGE
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.pages.runs import RunMap
    from vmofs.core.requests.page_source import PageSource


_NOBODY: dict[int, RangeSet] = {}  # replaced, never changed


class Syncs:
    """Those who wait for pages of one VMO to be written back, each with the pages that were not yet."""

    __slots__ = ("_left", "_serial", "_size")

    def __init__(self) -> None:
        self._left = _NOBODY
        self._serial = 0
        self._size = PageState.CLEAN

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._left)

    def size_changed(self) -> None:
        """Note that the size changed."""
        self._size = after(self._size, PageEvent.WRITE)

    def steps(self, source: PageSource, runs: RunMap, size_pages: int) -> Steps[None]:
        """Wait until every page that is dirty now was through WRITEBACK_END, or is gone, and the size too."""
        left = RangeSet()
        self._serial += 1
        serial = self._serial
        if self._left is _NOBODY:
            self._left = {}
        self._left[serial] = left  # before the first slice: what is written back between two is to be taken out again
        try:
            for part in runs.in_slices(PageRange(0, size_pages)):
                if part.start:
                    yield None
                for record in dirty_ranges(runs, part):
                    left.add(record.range)
            if self._size is not PageState.CLEAN:
                left.add(SIZE_PAGE)
            while left:
                source.check_attached()
                yield Need(source, PacketCommand.WRITEBACK, next(iter(left)))
        finally:
            del self._left[serial]

    def begin(self) -> None:
        """Note a WRITEBACK_BEGIN of whatever range: the pager is about to look at the size."""
        self._size = after(self._size, PageEvent.BEGIN)

    def end(self, source: PageSource) -> None:
        """Note a WRITEBACK_END of whatever range."""
        self._size = after(self._size, PageEvent.END)
        if self._size is PageState.CLEAN:
            self._settle(source, SIZE_PAGE)

    def written_back(self, source: PageSource, runs: RunMap, pages: PageRange) -> None:
        """Count the pages of a range that are clean, or gone, by now, and wake who waited for them."""
        if not self._left:
            return
        still_dirty = RangeSet()
        for record in dirty_ranges(runs, pages):
            still_dirty.add(record.range)
        for clean in still_dirty.missing(pages):
            self._settle(source, clean)

    def _settle(self, source: PageSource, clean: PageRange) -> None:
        for left in self._left.values():
            left.discard(clean)
        source.resolve(PacketCommand.WRITEBACK, clean)
