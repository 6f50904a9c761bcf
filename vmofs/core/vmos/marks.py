"""Marked pages: the pager is told, by TOUCH, when a program first reads one that is there. Nobody waits for that.

What a pager supplies ahead goes into the kernel's page cache, and the reader never tells that it has got there. So a
pager marks a page here and there of what it supplies: the edge keeps those out of that cache. Zircon has no such thing;
Linux has it for its own read-ahead (PG_readahead).

Marks are in the pages of the root, kept with its source, and paid for as hints are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages.ranges import RangeSet
from vmofs.core.requests.access import Steps
from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.status import NoMemoryError
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo_pages import ClonePages

MOST_RANGES = 1024
"""Of one VMO."""


def mark_steps(root: PagerPages, pages: PageRange) -> Steps[None]:
    """Mark pages, present or not. What the edge has of them is stale, so that the next read comes here.

    Raises:
        NoMemoryError: there are many marked ranges.
    """
    marked = root.source.marked or RangeSet()
    root.runs.check_ranges()
    if len(marked) >= MOST_RANGES:
        raise NoMemoryError(f"marks were made in {MOST_RANGES} ranges, which is too many")
    marked.add(pages)
    root.source.marked = marked or None
    root.count_hints()
    for part in root.runs.in_slices(pages):
        if part.start > pages.start:
            yield None
        for run in root.runs.over(part):
            root.changed(run.range)


def touch(cow: PagerPages | ClonePages, pages: PageRange) -> None:
    """Note that a program reads pages: their marks go, and the pager is told of those that are there.

    It need not be told of absent ones: it is asked for them.
    """
    marked = cow.source.marked
    if marked is None:
        return
    for _, found in cow.find_all(pages & PageRange(0, cow.size_pages)):
        root = found.node
        if isinstance(root, PagerPages):
            for part in marked.over(found.range):
                marked.discard(part)
                if not found.absent:
                    root.source.send_note(PacketCommand.TOUCH, part)
                root.count_hints()
    cow.source.marked = marked or None


def unmarked(cow: PagerPages | ClonePages, pages: PageRange) -> list[PageRange]:
    """Return the parts of a range that show more than zeros, are there, and are not marked."""
    marked = cow.source.marked
    if marked is None:
        return cow.committed(pages)
    parts = []
    for page, found in cow.find_all(pages):
        if found.has_frames:
            shown = marked.missing(found.range) if isinstance(found.node, PagerPages) else [found.range]
            parts += [part.moved(page - found.page) for part in shown]
    return parts
