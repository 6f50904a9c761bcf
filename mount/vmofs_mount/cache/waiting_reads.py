"""The READs of one file that wait for a pager, by where they are."""

from __future__ import annotations

from vmofs.units import PageRange

_STRIPE_PAGES = 64


class WaitingReads:
    """Ranges by number; ten thousand threads may wait for a page each, so they are not looked through.

    The file is cut into stripes, each of which knows the READs that have pages in it. A READ has at most 256 pages and
    two that wait have seldom one in common, so it is in few stripes, and in a stripe are few.
    """

    __slots__ = ("_by_number", "_outdated", "_stripes")

    def __init__(self) -> None:
        self._by_number: dict[int, PageRange] = {}
        self._stripes: dict[int, dict[int, PageRange]] = {}  # no empty one
        self._outdated: set[int] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._by_number)

    def add(self, number: int, pages: PageRange) -> None:
        """Note that a READ waits."""
        self._by_number[number] = pages
        for stripe in _stripes(pages):
            self._stripes.setdefault(stripe, {})[number] = pages

    def remove(self, number: int) -> bool:
        """Note that it waits no longer; return whether some of its pages were written to meanwhile."""
        pages = self._by_number.pop(number)
        for stripe in _stripes(pages):
            reads = self._stripes[stripe]
            del reads[number]
            if not reads:
                del self._stripes[stripe]
        outdated = number in self._outdated
        self._outdated.discard(number)
        return outdated

    def written(self, pages: PageRange) -> list[PageRange]:
        """Note that pages were written to; return those of them that READs wait for."""
        found = self._over(pages)
        self._outdated.update(found)
        return [read & pages for read in found.values()]

    def over(self, pages: PageRange) -> list[PageRange]:
        """Return the ranges that have a page in common with ``pages``."""
        return list(self._over(pages).values())

    def _over(self, pages: PageRange) -> dict[int, PageRange]:
        found: dict[int, PageRange] = {}
        start, end = pages
        stripes = _stripes(pages) if pages else range(0)
        for stripe in stripes if len(stripes) <= len(self._stripes) else self._stripes:
            reads = self._stripes.get(stripe, {})
            found |= {number: read for number, read in reads.items() if read.start < end and start < read.end}
        return found


def _stripes(pages: PageRange) -> range:
    start, end = pages
    return range(start // _STRIPE_PAGES, -(-end // _STRIPE_PAGES))
