"""What is known of one object: what was supplied, what is on its way, who reads where."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from vmofs.client.policy.flights import Flight, Range, subtract
from vmofs.client.policy.page_set import PageSet
from vmofs.client.policy.streams import Stream, Streams
from vmofs.units import PAGE_SIZE

MOST_HELD = 1024
"""Pages that are held back at a time; the oldest is forgotten, and is read again if somebody comes."""


class Plan:
    """What is known of one object.

    Args:
        name: Of the file.
        size: In bytes.
        ahead: How many bytes may be read ahead of a reader.
    """

    def __init__(self, name: str, size: int, ahead: int) -> None:
        self.name = name
        self.size = size
        self.end = -(-size // PAGE_SIZE) * PAGE_SIZE
        self.have = PageSet()
        self.streams = Streams(self.end, ahead)
        self.flights: dict[Flight, Stream | None] = {}
        """With the reader for whom it is read ahead."""
        self.changed: str | None = None
        """Why nothing of it is to be had any more."""
        self.is_new = True
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def on_its_way(self, start: int, end: int, *, idle: bool) -> Iterator[tuple[Flight, Range]]:
        """Yield what of a range is being read; with ``idle`` also what is to be read ahead and is not begun."""
        near = [flight for flight in self.flights if flight.start < end and start < flight.end]
        for flight in near:
            if idle or not flight.is_idle:
                for part in flight.meets(start, end):
                    yield flight, part

    def absent(self, start: int, end: int, *, idle: bool = True) -> list[Range]:
        """Return what of a range was not supplied, is not held back, and is not on its way."""
        ranges: list[Range] = list(self.have.gaps(start, end))
        for _, part in self.on_its_way(start, end, idle=idle):
            ranges = subtract(ranges, *part)
        for page in self._held_in(start, end):
            ranges = subtract(ranges, page, page + PAGE_SIZE)
        return ranges

    def cluster(self, start: int, end: int, size: int) -> Range:
        """Return what to read for pages that are wanted: what is absent of the aligned cluster around them."""
        low, high = start // size * size, min(-(-end // size) * size, self.end)
        around = [part for part in self.absent(low, high, idle=False) if part[0] <= start and end <= part[1]]
        return around[0] if around else (start, end)

    def hold(self, page: int, data: bytes) -> None:
        """Hold a page back."""
        self._held[page] = data
        if len(self._held) > MOST_HELD:
            self._held.popitem(last=False)

    def take_held(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """Return the pages of a range that were held back, which they are no more."""
        return [(page, self._held.pop(page)) for page in self._held_in(start, end)]

    def _held_in(self, start: int, end: int) -> list[int]:
        return [page for page in range(start, end, PAGE_SIZE) if page in self._held] if self._held else []

    def drop_held(self) -> None:
        """Forget the pages that are held back."""
        self._held.clear()
