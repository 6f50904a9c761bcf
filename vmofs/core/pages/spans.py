"""Spans of pages in order, each with a number: what run maps and range sets are made of.

The spans stand in columns of machine integers, which are cut into blocks. A span costs 24 bytes, as an entry of a
SortedDict it was 230; it is found by two binary searches; a change moves the integers of one block at most. Nothing
is allocated for an empty one, of which a VMO has several.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from vmofs.units import PageRange

Span = tuple[int, int, int]
"""First page, page behind the last, number."""

BLOCK = 512
"""Spans of a block that was just cut; twice as many are cut again. Moving 8 KiB costs less than one call."""


SLICE = 128
"""Spans that are worked on in one go: whatever is done with each, it takes a few milliseconds."""


class _Block:
    """Columns of the same length; never empty while it belongs to ``Spans``."""

    __slots__ = ("ends", "starts", "values")

    def __init__(self, starts: array[int], ends: array[int], values: array[int]) -> None:
        self.starts = starts
        self.ends = ends
        self.values = values

    def part(self, first: int, stop: int) -> _Block:
        return _Block(self.starts[first:stop], self.ends[first:stop], self.values[first:stop])

    def get(self, first: int, stop: int) -> list[Span]:
        """Return the spans from ``first`` to ``stop``."""
        if stop - first <= 1:  # mostly
            return [(self.starts[first], self.ends[first], self.values[first])] if first < stop else []
        return list(zip(self.starts[first:stop], self.ends[first:stop], self.values[first:stop], strict=True))

    def put(self, first: int, stop: int, spans: Sequence[Span]) -> None:
        """Put spans in the place of those from ``first`` to ``stop``."""
        if len(spans) == 1 and stop - first == 1:
            ((self.starts[first], self.ends[first], self.values[first]),) = spans
        elif not spans:
            del self.starts[first:stop], self.ends[first:stop], self.values[first:stop]
        else:
            self.starts[first:stop] = array("q", [start for start, _, _ in spans])
            self.ends[first:stop] = array("q", [end for _, end, _ in spans])
            self.values[first:stop] = array("q", [value for _, _, value in spans])


_NO_BLOCKS: list[_Block] = []  # these two are replaced, never changed
_NO_HEADS: list[int] = []


class Spans:
    """Disjoint, non-empty spans. Every call costs O(log n) in their number, plus those that it is about."""

    __slots__ = ("_blocks", "_heads")

    def __init__(self) -> None:
        self._blocks = _NO_BLOCKS
        self._heads = _NO_HEADS  # the first page of every block but the first

    def __len__(self) -> int:
        """Return the number of spans."""
        return sum(len(block.starts) for block in self._blocks)

    def __bool__(self) -> bool:
        """Return whether there is any span."""
        return bool(self._blocks)

    def _spans(self) -> Iterator[Span]:
        """Yield all spans, ascending; nothing may change meanwhile."""
        for block in self._blocks:
            yield from zip(block.starts, block.ends, block.values, strict=True)

    def _span_at(self, page: int) -> Span | None:
        """Return the span that holds the page."""
        blocks = self._blocks
        if blocks:
            block = blocks[bisect_right(self._heads, page)]
            index = bisect_right(block.starts, page) - 1
            if index >= 0 and page < (end := block.ends[index]):
                return block.starts[index], end, block.values[index]
        return None

    def _spans_over(self, start: int, end: int) -> list[Span]:
        """Return the spans that have a page in ``[start, end)``, whole, ascending."""
        blocks = self._blocks
        if not blocks or start >= end:
            return []
        heads = self._heads
        number = bisect_right(heads, start)
        block = blocks[number]
        starts = block.starts
        first = bisect_right(starts, start)
        if first and block.ends[first - 1] > start:
            first -= 1
            stop = first + 1
        else:
            stop = first
        if end - start == 1:  # there cannot be more
            return block.get(first, stop)
        found = block.get(first, bisect_left(starts, end, stop))
        while number < len(heads) and heads[number] < end:
            number += 1
            block = blocks[number]
            found += block.get(0, bisect_left(block.starts, end))
        return found

    def reach(self, start: int, end: int, count: int) -> int:
        """Return up to where, at most ``end``, there are ``count`` spans at most from ``start`` on; none is cut."""
        if not self._blocks:
            return end
        number = bisect_right(self._heads, start)
        index = bisect_right(self._blocks[number].ends, start) + count
        while index >= len(self._blocks[number].starts):
            index -= len(self._blocks[number].starts)
            number += 1
            if number == len(self._blocks):
                return end
        return min(end, self._blocks[number].starts[index])

    def reach_back(self, start: int, end: int, count: int) -> int:
        """Return from where on, at least ``start``, there are ``count`` spans at most up to ``end``; none is cut."""
        if not self._blocks:
            return start
        number = bisect_left(self._heads, end)
        index = bisect_left(self._blocks[number].starts, end) - count
        while index < 0:
            number -= 1
            if number < 0:
                return start
            index += len(self._blocks[number].starts)
        return max(start, min(end, self._blocks[number].starts[index]))

    def in_slices(self, pages: PageRange) -> Iterator[PageRange]:
        """Cut a range where spans begin, so that each part has ``SLICE`` of them at most; they may change meanwhile."""
        start, limit = pages
        while start < limit:
            end = self.reach(start, limit, SLICE)
            yield PageRange(start, end)
            start = end

    def next_start(self, page: int, limit: int) -> int:
        """Return where the first span at or after ``page`` starts, at most ``limit``."""
        if not self._blocks:
            return limit
        number = bisect_left(self._heads, page)
        starts = self._blocks[number].starts
        index = bisect_left(starts, page)
        if index < len(starts):
            return min(limit, starts[index])
        return min(limit, self._heads[number]) if number < len(self._heads) else limit

    def _find(self, start: int, end: int) -> tuple[int, _Block, int, int]:
        """Return where the spans stand that have a page in ``[start, end)``: block, first, behind the last.

        To change them: if they stand in several blocks, those become one. There must be a span somewhere.
        """
        heads = self._heads
        number = bisect_right(heads, start)
        if number < len(heads) and heads[number] < end:
            self._join(number, bisect_left(heads, end))
        block = self._blocks[number]
        first = bisect_right(block.starts, start)
        if first and block.ends[first - 1] > start:
            first -= 1
        return number, block, first, bisect_left(block.starts, end, first)

    def _changed(self, number: int, block: _Block) -> None:
        """Put right what a change of a block may have broken."""
        if not block.starts and not self._heads:
            self._blocks = _NO_BLOCKS
        elif not block.starts or len(block.starts) > 2 * BLOCK:
            self._cut(number)
        elif number:
            self._heads[number - 1] = block.starts[0]

    def _replace(self, start: int, end: int, spans: Sequence[Span]) -> None:
        """Put spans in the place of all that have a page in ``[start, end)``; they lie where those were, or in it."""
        if self._blocks:
            number, block, first, stop = self._find(start, end)
            block.put(first, stop, spans)
            self._changed(number, block)
        elif spans:
            block = self._begin(*spans[0])
            block.put(1, 1, spans[1:])
            self._changed(0, block)

    def _begin(self, start: int, end: int, value: int) -> _Block:
        """Put in the first span."""
        block = _Block(array("q", (start,)), array("q", (end,)), array("q", (value,)))
        self._blocks = [block]
        return block

    def _insert(self, start: int, end: int, value: int, step: int) -> tuple[int, int]:
        """Put a span into a gap; return what it became: it melts into neighbours that it continues.

        They continue each other if the numbers grow by ``step`` with each page.
        """
        if not self._blocks:
            self._begin(start, end, value)
            return start, end
        heads = self._heads
        number = bisect_right(heads, start)
        if number < len(heads) and heads[number] == end:
            self._join(number, number + 1)
        block = self._blocks[number]
        starts, ends, values = block.starts, block.ends, block.values
        place = bisect_right(starts, start)  # never 0, except in the first block
        left = place - 1
        grows_left = place > 0 and ends[left] == start and values[left] + step * (start - starts[left]) == value
        if place < len(starts) and starts[place] == end and value + step * (end - start) == values[place]:
            end = ends[place]
            if grows_left:
                del starts[place], ends[place], values[place]
            else:
                starts[place], values[place] = start, value
        elif not grows_left:
            starts.insert(place, start)
            ends.insert(place, end)
            values.insert(place, value)
        if grows_left:
            ends[left] = end
            start = starts[left]
        if len(starts) > 2 * BLOCK:
            self._cut(number)
        return start, end

    def _join(self, first: int, last: int) -> None:
        """Make one block of several."""
        joined = self._blocks[first]
        for block in self._blocks[first + 1 : last + 1]:
            joined.starts += block.starts
            joined.ends += block.ends
            joined.values += block.values
        del self._blocks[first + 1 : last + 1], self._heads[first:last]

    def _cut(self, number: int) -> None:
        """Make several blocks, or none, of one."""
        block = self._blocks[number]
        parts = [block.part(first, first + BLOCK) for first in range(0, len(block.starts), BLOCK)]
        self._blocks[number : number + 1] = parts
        self._heads = [block.starts[0] for block in self._blocks[1:]]

    def check(self) -> None:
        """Assert that spans are disjoint and in order, and that blocks are found by their heads."""
        last = -1
        for start, end, _ in self._spans():
            assert last <= start < end, (last, start, end)
            last = end
        assert self._heads == [block.starts[0] for block in self._blocks[1:]]
        assert all(0 < len(block.starts) <= 2 * BLOCK for block in self._blocks)
