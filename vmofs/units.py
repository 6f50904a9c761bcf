"""Pages and bytes: the page size, distinct integer types, and half-open page ranges.

Units are types: a plain ``int`` named ``*_bytes`` or ``offset``/``length`` is bytes, a ``PageRange`` is
always pages.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

PAGE_SIZE = 4096
"""Bytes of a page. Fixed: it is part of the wire format."""

MAX_VMO_BYTES = 2**63 - PAGE_SIZE
"""The largest VMO: the largest page-aligned size that a Linux file (signed 64-bit off_t) can have."""

UINT64_MAX = 2**64 - 1
"""Arguments of the calls are unsigned 64-bit numbers, as in Zircon; sums beyond this overflow."""

Key = NewType("Key", int)
"""The number by which a pager knows a VMO; chosen by the creator, not checked for uniqueness."""


class PageRange(NamedTuple):
    """The pages ``[start, end)``, in pages. Empty when ``end <= start``."""

    start: int
    end: int

    @classmethod
    def of_bytes(cls, offset: int, length: int) -> PageRange:
        """Return the pages that the bytes ``[offset, offset+length)`` touch (rounded outward)."""
        start = offset // PAGE_SIZE
        return tuple.__new__(cls, (start, -(-(offset + length) // PAGE_SIZE) if length > 0 else start))

    @property
    def pages(self) -> int:
        """Number of pages, never negative."""
        start, end = self
        return end - start if end > start else 0

    @property
    def offset(self) -> int:
        """Byte offset of the first page."""
        return self.start * PAGE_SIZE

    @property
    def length(self) -> int:
        """Length in bytes."""
        return self.pages * PAGE_SIZE

    def moved(self, pages: int) -> PageRange:
        """Return the same range ``pages`` pages further on."""
        return PageRange(self.start + pages, self.end + pages)

    def __bool__(self) -> bool:
        """Return whether the range has any page."""
        return self.end > self.start

    def __contains__(self, page: object) -> bool:
        """Return whether the page index lies in the range."""
        return isinstance(page, int) and self.start <= page < self.end

    def __and__(self, other: PageRange) -> PageRange:
        """Return the common pages; empty (but with a defined start) when there are none."""
        start, end = self
        other_start, other_end = other
        start = max(start, other_start)
        return tuple.__new__(PageRange, (start, max(start, min(end, other_end))))

    def __str__(self) -> str:
        """Return ``[start,end)``."""
        return f"[{self.start},{self.end})"


ALL_PAGES = PageRange(0, MAX_VMO_BYTES // PAGE_SIZE)
"""Those of the largest VMO."""


def page_count(size_bytes: int) -> int:
    """Return the number of pages that hold ``size_bytes`` bytes (rounded up)."""
    return -(-size_bytes // PAGE_SIZE)


def is_page_aligned(value: int) -> bool:
    """Return whether a byte offset or length is a whole number of pages."""
    return value % PAGE_SIZE == 0
