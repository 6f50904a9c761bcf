"""Pins: how often each page is pinned. Zircon: zx_bti_pin, as far as the pager contract sees it.

A pinned page has a frame and keeps it: it is not evicted, outlives a detach, stays dirty when a writeback begins, is
zeroed in place, and keeps the VMO from shrinking over it.
"""

from __future__ import annotations

from typing import Protocol

from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.spans import Span, Spans
from vmofs.status import NoMemoryError
from vmofs.units import PageRange

MOST_PIECES = 4096
"""Ranges of one object that differ in how often they are pinned: a pin of all its pages looks at each."""


class Unpinned(Protocol):
    """Who wants to know of pages that were pinned."""

    def became_evictable(self, pages: PageRange) -> None:
        """Learn that the last pin was taken from pages."""


class _Counts(Spans):
    """How often pages are pinned; those that are not have no span. Neighbours with the same number are one."""

    __slots__ = ()

    def add(self, pages: PageRange, step: int) -> list[PageRange]:
        """Add ``step``, 1 or -1, to each page; return what is not pinned any more."""
        start, end = pages
        touched = self._spans_over(start - 1, end + 1)  # with the neighbours, for they may continue what comes of it
        new: list[Span] = []
        lifted = []
        position = start
        for first, last, number in touched:
            _append(new, first, min(last, start), number)
            inside = PageRange(max(first, start), min(last, end))
            if inside:
                _append(new, position, inside.start, step)
                _append(new, *inside, number + step)
                position = inside.end
                if not number + step:
                    lifted.append(inside)
            if last > end:
                _append(new, position, end, step)
                position = end
                _append(new, max(first, end), last, number)
        _append(new, position, end, step)
        self._replace(start - 1, end + 1, new)
        return lifted

    def numbers(self) -> list[tuple[PageRange, int]]:
        """Return all there is."""
        return [(PageRange(start, end), number) for start, end, number in self._spans()]


def _append(spans: list[Span], start: int, end: int, number: int) -> None:
    """Add pages at the end of a list, if there are any and they are pinned."""
    if start >= end or not number:
        return
    if spans and spans[-1][1:] == (start, number):
        start = spans.pop()[0]
    spans.append((start, end, number))


class Pins:
    """Counts the pins of the pages of one object; costs the ranges it touches, however often they are pinned.

    ``told`` learns of pages that are pinned no longer. ``most``: in how many pieces the object may be pinned.
    """

    __slots__ = ("_counts", "_most", "_told", "pages")

    def __init__(self, told: Unpinned | None = None, most: int = MOST_PIECES) -> None:
        self._told = told
        self._most = most
        self.pages = RangeSet()
        """The pages that are pinned at least once."""
        self._counts = _NOTHING_PINNED

    def add(self, pages: PageRange) -> Pin:
        """Pin every page of the range once more.

        Raises:
            NoMemoryError: the object is pinned in too many pieces.
        """
        if pages:
            if self._counts is _NOTHING_PINNED:
                self._counts = _Counts()
            if len(self._counts) >= self._most:
                raise NoMemoryError(f"the VMO is pinned in {len(self._counts)} pieces, which is too many")
            self._counts.add(pages, 1)
            self.pages.add(pages)
        return Pin(self, pages)

    def remove(self, pages: PageRange) -> None:
        """Take one pin from every page of the range. For ``Pin.unpin``."""
        if not pages:
            return
        for part in self._counts.add(pages, -1):
            self.pages.discard(part)
            if self._told is not None:
                self._told.became_evictable(part)

    def check(self) -> None:
        """Assert that what has a number is pinned."""
        self._counts.check()
        self.pages.check()
        for pages, number in self._counts.numbers():
            assert number > 0
            assert not self.pages.missing(pages)


_NOTHING_PINNED = _Counts()  # replaced, never changed


class Pin:
    """Pages that stay as they are until ``unpin``."""

    __slots__ = ("_pins", "held", "pages")

    def __init__(self, pins: Pins, pages: PageRange) -> None:
        self._pins = pins
        self.pages = pages
        self.held = True

    def unpin(self) -> None:
        """Give the pages free, unless other pins hold them. A second call does nothing."""
        if self.held:
            self.held = False
            self._pins.remove(self.pages)
