"""Pins: how often each page is pinned. Zircon: zx_bti_pin, as far as the pager contract sees it.

A pinned page has a frame and keeps it: it is not evicted, outlives a detach, stays dirty when a writeback begins, is
zeroed in place, and keeps the VMO from shrinking over it.
"""

from __future__ import annotations

from typing import Protocol

from vmofs.core.ranges import RangeSet
from vmofs.units import PageRange

_NOTHING_DEEPER: list[RangeSet] = []  # replaced, never changed


class Unpinned(Protocol):
    """Who wants to know of pages that were pinned."""

    def became_evictable(self, pages: PageRange) -> None:
        """Learn that a pin was taken from pages; others may still hold them."""


class Pins:
    """Counts the pins of the pages of one object; costs the ranges it touches, times the depth of the pinning.

    ``told`` learns of pages from which a pin was taken.
    """

    __slots__ = ("_deeper", "_told", "pages")

    def __init__(self, told: Unpinned | None = None) -> None:
        self._told = told
        self.pages = RangeSet()
        """The pages that are pinned at least once."""
        self._deeper = _NOTHING_DEEPER  # the pages that are pinned at least 2, 3, ... times

    def add(self, pages: PageRange) -> Pin:
        """Pin every page of the range once more."""
        level, parts = self.pages, [pages]
        for deeper in (*self._deeper, None):
            fresh = [hole for part in parts for hole in level.missing(part)]
            parts = [common for part in parts for common in level.over(part)]
            for part in fresh:
                level.add(part)
            if not parts:
                break
            if deeper is None:
                deeper = RangeSet()  # noqa: PLW2901 - the level that this pin is the first to reach
                self._deeper = [*self._deeper, deeper]
                for part in parts:
                    deeper.add(part)
            level = deeper
        return Pin(self, pages)

    def remove(self, pages: PageRange) -> None:
        """Take one pin from every page of the range. For ``Pin.unpin``."""
        parts = [pages]
        for level in (*reversed(self._deeper), self.pages):
            lifted = [common for part in parts for common in level.over(part)]
            parts = [hole for part in parts for hole in level.missing(part)]
            for part in lifted:
                level.discard(part)
        while self._deeper and not self._deeper[-1]:
            self._deeper.pop()
        if self._told is not None:
            self._told.became_evictable(pages)

    def check(self) -> None:
        """Assert that what is pinned n+1 times is pinned n times."""
        level = self.pages
        level.check()
        for deeper in self._deeper:
            deeper.check()
            assert len(deeper), "a level that nothing reaches"
            assert not any(level.missing(part) for part in deeper)
            level = deeper


class Pin:
    """Pages that stay as they are until ``unpin``."""

    def __init__(self, pins: Pins, pages: PageRange) -> None:
        self._pins = pins
        self.pages = pages
        self.held = True

    def unpin(self) -> None:
        """Give the pages free, unless other pins hold them. A second call does nothing."""
        if self.held:
            self.held = False
            self._pins.remove(self.pages)
