"""A set of page indices kept as disjoint, coalesced, half-open ranges."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedDict

from vmofs.units import PageRange


class RangeSet:
    """Pages as ranges; every operation costs O(log n) in the number of ranges, plus the ranges it touches."""

    __slots__ = ("_ends", "_pages")

    def __init__(self) -> None:
        self._ends: SortedDict[int, int] = SortedDict()  # start -> end
        self._pages = 0

    @property
    def pages(self) -> int:
        """Number of pages in the set."""
        return self._pages

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self._ends)

    def __iter__(self) -> Iterator[PageRange]:
        """Yield the ranges in ascending order."""
        return (PageRange(start, end) for start, end in self._ends.items())

    def over(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of the set that lie in ``pages``, ascending."""
        return [part for whole in self._touching(pages) if (part := whole & pages)]

    def missing(self, pages: PageRange) -> list[PageRange]:
        """Return the parts of ``pages`` that are not in the set, ascending."""
        holes, position = [], pages.start
        for part in self.over(pages):
            if part.start > position:
                holes.append(PageRange(position, part.start))
            position = part.end
        if position < pages.end:
            holes.append(PageRange(position, pages.end))
        return holes

    def add(self, pages: PageRange) -> None:
        """Put the pages in the set; those already there stay."""
        if not pages:
            return
        start, end = pages
        # Ranges that only touch are swallowed too: that is what keeps the set coalesced.
        for whole in self._touching(PageRange(start - 1, end + 1)):
            start, end = min(start, whole.start), max(end, whole.end)
            del self._ends[whole.start]
            self._pages -= whole.pages
        self._ends[start] = end
        self._pages += end - start

    def discard(self, pages: PageRange) -> None:
        """Take the pages out of the set; those not there do not matter."""
        for whole in self._touching(pages):
            del self._ends[whole.start]
            self._pages -= whole.pages
            for rest in (PageRange(whole.start, pages.start), PageRange(pages.end, whole.end)):
                if rest:
                    self._ends[rest.start] = rest.end
                    self._pages += rest.pages

    def _touching(self, pages: PageRange) -> list[PageRange]:
        """Return the whole ranges that have a page in common with ``pages``."""
        if not pages:
            return []
        first = next(self._ends.irange(maximum=pages.start, reverse=True), pages.start)
        starts = self._ends.irange(first, pages.end, inclusive=(True, False))
        return [PageRange(start, end) for start in starts if (end := self._ends[start]) > pages.start]

    def check(self) -> None:
        """Assert that the ranges are non-empty, disjoint, not adjacent, and counted right."""
        last_end = None
        for start, end in self:
            assert start < end, (start, end)
            assert last_end is None or start > last_end, (last_end, start)
            last_end = end
        assert self._pages == sum(part.pages for part in self)
