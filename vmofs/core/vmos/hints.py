"""Hints of what is needed, which anybody may give who may read a VMO: bounded for each, and paid for by its owner.

They are kept with the pages of the root. A clone hints at those of them that it sees.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.status import NoMemoryError
from vmofs.units import PageRange

MOST_RANGES = 1024
"""Of one VMO."""


def always_need(cow: VmoPages, pages: PageRange) -> None:
    """Protect pages from eviction for good.

    Raises:
        NoMemoryError: there are many such ranges.
    """
    for root, part in _of_root(cow, pages):
        _check(root)
        root.always_needed.add(part)
        root.unneeded.discard(part)
        root.count_hints()


def dont_need(cow: VmoPages, pages: PageRange) -> None:
    """Let pages go before others, except those that are always needed.

    Raises:
        NoMemoryError: there are many such ranges.
    """
    for root, pages_of_root in _of_root(cow, pages):
        _check(root)
        for part in root.always_needed.missing(pages_of_root):
            root.unneeded.add(part)
            if root.recency is not None:
                root.recency.unneeded()
        root.count_hints()


def _of_root(cow: VmoPages, pages: PageRange) -> Iterator[tuple[PagerPages, PageRange]]:
    """Yield the pages of the root, present or not, that no node on the way hides."""
    if isinstance(cow, PagerPages):
        yield cow, pages
        return
    for _, found in cow.find_all(pages):
        if isinstance(found.node, PagerPages):
            yield found.node, found.range


def _check(root: PagerPages) -> None:
    root.runs.check_ranges()
    if len(root.always_needed) + len(root.unneeded) >= MOST_RANGES:
        raise NoMemoryError(f"hints were given for {MOST_RANGES} ranges, which is too many")
