"""A set of pages, for what was supplied: little memory for runs and for single pages alike."""

from __future__ import annotations

from collections.abc import Iterator

from vmofs.units import PAGE_SIZE

_CHUNK = 4096
"""Pages that one number stands for: 16 MiB of the object, 512 bytes of memory."""

MOST_CHUNKS = 1 << 16
"""A set forgets what was added first beyond that: a TiB in one piece. What is forgotten may be read twice."""


class PageSet:
    """Pages, given and shown as half-open ranges of bytes that are rounded outward to pages."""

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, start: int, end: int) -> None:
        """Add the pages of a range."""
        for chunk, mask in _masks(start, end):
            self._chunks[chunk] = self._chunks.get(chunk, 0) | mask
        while len(self._chunks) > MOST_CHUNKS:
            del self._chunks[next(iter(self._chunks))]

    def discard(self, start: int, end: int) -> None:
        """Remove the pages of a range, those that are there."""
        for chunk, mask in _masks(start, end):
            left = self._chunks.get(chunk, 0) & ~mask
            if left:
                self._chunks[chunk] = left
            else:
                self._chunks.pop(chunk, None)

    def meets(self, start: int, end: int) -> bool:
        """Return whether a page of the range is in the set."""
        return any(self._chunks.get(chunk, 0) & mask for chunk, mask in _masks(start, end))

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the longest ranges of pages that are not in the set."""
        gap_start = gap_end = -1
        for chunk, mask in _masks(start, end):
            missing = mask & ~self._chunks.get(chunk, 0)
            while missing:
                first = (missing & -missing).bit_length() - 1
                count = _ones(missing >> first)
                missing &= ~(((1 << count) - 1) << first)
                page = chunk * _CHUNK + first
                if page * PAGE_SIZE != gap_end:
                    if gap_end > gap_start:
                        yield gap_start, gap_end
                    gap_start = page * PAGE_SIZE
                gap_end = (page + count) * PAGE_SIZE
        if gap_end > gap_start:
            yield gap_start, gap_end


def _ones(number: int) -> int:
    """Return how many ones a number ends with."""
    return (~number & (number + 1)).bit_length() - 1


def _masks(start: int, end: int) -> list[tuple[int, int]]:
    """Return the chunks of a range, and of each a number with a one for each of its pages."""
    first, last = start // PAGE_SIZE, -(-end // PAGE_SIZE)
    chunk, low = divmod(first, _CHUNK)
    if 0 < last - first <= _CHUNK - low:  # of one chunk, as most are
        return [(chunk, ((1 << last - first) - 1) << low)]
    masks = []
    while first < last:
        chunk, low = divmod(first, _CHUNK)
        count = min(last - first, _CHUNK - low)
        masks.append((chunk, ((1 << count) - 1) << low))
        first += count
    return masks
