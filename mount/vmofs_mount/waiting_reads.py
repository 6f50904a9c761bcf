"""The READs of one file that wait for a pager, by where they are."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedDict

from vmofs.units import PageRange


class WaitingReads:
    """Ranges by number; ten thousand threads may wait for a page each, so they are not looked through."""

    __slots__ = ("_by_number", "_by_start", "_longest", "_outdated")

    def __init__(self) -> None:
        self._by_number: dict[int, PageRange] = {}
        self._by_start: SortedDict[tuple[int, int], PageRange] = SortedDict()
        self._longest = 0  # in pages; the kernel asks for 256 at most
        self._outdated: set[int] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._by_number)

    def add(self, number: int, pages: PageRange) -> None:
        """Note that a READ waits."""
        self._by_number[number] = self._by_start[pages.start, number] = pages
        self._longest = max(self._longest, pages.pages)

    def remove(self, number: int) -> bool:
        """Note that it waits no longer; return whether some of its pages were written to meanwhile."""
        pages = self._by_number.pop(number)
        del self._by_start[pages.start, number]
        outdated = number in self._outdated
        self._outdated.discard(number)
        return outdated

    def written(self, pages: PageRange) -> list[PageRange]:
        """Note that pages were written to; return those of them that READs wait for."""
        keys = list(self._keys_over(pages))
        self._outdated.update(number for _, number in keys)
        return [self._by_start[key] & pages for key in keys]

    def over(self, pages: PageRange) -> Iterator[PageRange]:
        """Yield the ranges that have a page in common with ``pages``."""
        return (self._by_start[key] for key in self._keys_over(pages))

    def _keys_over(self, pages: PageRange) -> Iterator[tuple[int, int]]:
        for key in self._by_start.irange((pages.start - self._longest, 0), (pages.end, 0)):
            if self._by_start[key] & pages:
                yield key
