"""A set of page indices kept as disjoint, coalesced, half-open ranges."""

from __future__ import annotations

from collections.abc import Iterator

from vmofs.core.pages.spans import Spans
from vmofs.units import PageRange


class RangeSet(Spans):
    """Pages as ranges; every operation costs O(log n) in the number of ranges, plus the ranges it touches."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        super().__init__()  # the numbers of the spans mean nothing
        self._pages = 0

    @property
    def pages(self) -> int:
        """Number of pages in the set."""
        return self._pages

    def __iter__(self) -> Iterator[PageRange]:
        """Yield the ranges in ascending order; nothing may change meanwhile."""
        return (PageRange(start, end) for start, end, _ in self._spans())

    def over(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of the set that lie in ``pages``, ascending."""
        first, last = pages
        return [PageRange(max(start, first), min(end, last)) for start, end, _ in self._spans_over(first, last)]

    def missing(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of ``pages`` that are not in the set, ascending."""
        holes = []
        position, limit = pages
        for start, end, _ in self._spans_over(position, limit):
            if start > position:
                holes.append(PageRange(position, start))
            position = end
        if position < limit:
            holes.append(PageRange(position, limit))
        return holes

    def add(self, pages: PageRange) -> None:
        """Put the pages in the set; those already there stay."""
        start, end = pages
        if start >= end:
            return
        # Ranges that only touch are swallowed too: that is what keeps the set coalesced.
        touched = self._spans_over(start - 1, end + 1)
        if not touched:
            self._insert(start, end, 0, 0)
        else:
            start, end = min(start, touched[0][0]), max(end, touched[-1][1])
            for first, last, _ in touched:
                self._pages -= last - first
            self._replace(start, end, ((start, end, 0),))
        self._pages += end - start

    def discard(self, pages: PageRange) -> None:
        """Take the pages out of the set; those not there do not matter."""
        start, end = pages
        touched = self._spans_over(start, end)
        if not touched:
            return
        for first, last, _ in touched:
            self._pages -= min(last, end) - max(first, start)
        rests = []
        if touched[0][0] < start:
            rests.append((touched[0][0], start, 0))
        if touched[-1][1] > end:
            rests.append((end, touched[-1][1], 0))
        self._replace(start, end, rests)

    def check(self) -> None:
        """Assert that the ranges are non-empty, disjoint, not adjacent, and counted right."""
        super().check()
        last_end = None
        for start, end in self:
            assert last_end is None or start > last_end, (last_end, start)
            last_end = end
        assert self._pages == sum(part.pages for part in self)
