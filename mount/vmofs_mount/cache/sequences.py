"""Programs that read an open file in sequence: what is to be put into the kernel's cache before they come to it.

With read-ahead of one page a program that reads by 4 KiB has a READ for each page, also of pages that are there. A
larger read-ahead would have the pager asked for more than was touched. So such a READ is followed by stores of what is
present behind it, as the kernel's read-ahead would be: the first of 128 KiB, each twice as large as the one before.
"""

from __future__ import annotations

from vmofs.units import PAGE_SIZE, PageRange

_FIRST_BYTES = 2**17
_MOST_BYTES = 2**21
_LARGE_BYTES = 2**17
"""READs of this size are as cheap as stores."""


class Sequence:
    """The READs of one open file."""

    __slots__ = ("_ahead", "_end", "_window")

    def __init__(self) -> None:
        self._end = -1  # of the last READ
        self._ahead = -1  # up to where was stored, or could not be
        self._window = _FIRST_BYTES

    def read(self, offset: int, end: int) -> PageRange | None:
        """Note a READ; return which pages are to be stored, if they are there."""
        # What was stored raises no READ. So the next one of a sequence is anywhere up to the end of that.
        if not self._end <= offset <= self._ahead:
            self._end = self._ahead = end
            self._window = _FIRST_BYTES
            return None
        self._end = end
        first = max(self._ahead, end)
        if end - offset >= _LARGE_BYTES or first - end > self._window // 4:  # half of the last
            self._ahead = first
            return None
        self._ahead = end + self._window
        self._window = min(2 * self._window, _MOST_BYTES)
        return PageRange(first // PAGE_SIZE, self._ahead // PAGE_SIZE)
