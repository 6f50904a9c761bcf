"""The page requests of one command that are outstanding at one page source: disjoint ranges, each with its request."""

from __future__ import annotations

from collections.abc import Iterator

from vmofs.core.pages.spans import Spans
from vmofs.core.requests.request import PageRequest
from vmofs.units import PageRange


class Outstanding(Spans):
    """Requests in page order. Finding one costs O(log n) in their number."""

    __slots__ = ("_by_start",)

    def __init__(self) -> None:
        super().__init__()  # numbered by their first page, so that neighbours do not melt
        self._by_start: dict[int, PageRequest] = {}

    def __iter__(self) -> Iterator[PageRequest]:
        """Yield the requests, ascending; none may come or go meanwhile."""
        return (self._by_start[start] for start, _, _ in self._spans())

    def add(self, request: PageRequest) -> None:
        """Put in a request that overlaps no other."""
        start, end = request.range
        self._by_start[start] = request
        self._insert(start, end, start, 0)  # different numbers do not melt

    def remove(self, request: PageRequest) -> None:
        """Take out a request."""
        del self._by_start[request.range.start]
        self._replace(*request.range, ())

    def has(self, request: PageRequest) -> bool:
        """Return whether the request is here."""
        return self._by_start.get(request.range.start) is request

    @property
    def is_single(self) -> bool:
        """Whether there is one request."""
        return len(self._by_start) == 1

    def covering(self, page: int) -> PageRequest | None:
        """Return the request for a page."""
        span = self._span_at(page)
        return None if span is None else self._by_start[span[0]]

    def meeting(self, pages: PageRange) -> list[PageRequest]:
        """Return the requests for some of these pages, ascending."""
        return [self._by_start[start] for start, _, _ in self._spans_over(*pages)]

    def check(self) -> None:
        """Assert that requests do not overlap and are found where they lie."""
        super().check()
        assert [(start, end) for start, end, _ in self._spans()] == [request.range for request in self]
        assert len(self) == len(self._by_start)
