"""ZERO: whole pages become zeros without any request, parts of pages are written. Zircon: zircon-pager 4.8."""

from __future__ import annotations

from vmofs.core.pages import content
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.requests.access import Steps
from vmofs.core.vmos.transfer import write_steps
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.units import PAGE_SIZE, PageRange, page_count

_PIECES = 16  # pinned and others, after which others have their turn
_IN_PLACE_PAGES = 16  # pinned pages are written in pieces of this many, so that no long string of zeros is made


def zero_steps(cow: VmoPages, offset: int, length: int) -> Steps[None]:
    """Zero bytes: first the parts of pages at the start and at the end, which may wait, then the rest.

    Pinned pages are zeroed in place; in a pager VMO by a write, of which the pager must know.
    """
    cow.check_inside(offset, length)
    cow.runs.check_ranges()
    end = offset + length
    first, last = min(end, page_count(offset) * PAGE_SIZE), max(offset, end - end % PAGE_SIZE)
    for start, stop in ((offset, first), (max(first, last), end)):
        if start < stop:
            yield from _part_steps(cow, start, stop)
            cow.check_inside(offset, length)
    pinned = cow.pinned if cow.has_source else RangeSet()
    pieces, position, last = 0, first // PAGE_SIZE, last // PAGE_SIZE
    while position < last:
        pieces += 1
        here = pinned.over(PageRange(position, min(last, position + _IN_PLACE_PAGES)))
        if here and here[0].start == position:
            start, position = position, here[0].end
            yield from _write_steps(cow, start * PAGE_SIZE, position * PAGE_SIZE)
        else:
            whole = PageRange(position, cow.reach(position, pinned.next_start(position, last)))
            cow.zero_whole(whole)
            position = whole.end
        if position < last and (not here or not pieces % _PIECES):
            yield None
        cow.check_inside(offset, length)


def tail_steps(cow: VmoPages, offset: int) -> Steps[None]:
    """Zero the bytes from ``offset`` to the end of its page; none if it is the start of one."""
    if offset % PAGE_SIZE:
        yield from _part_steps(cow, offset, offset + -offset % PAGE_SIZE)


def _part_steps(cow: VmoPages, start: int, end: int) -> Steps[None]:
    """Zero bytes of one page, unless it reads as zeros anyway."""
    page = start // PAGE_SIZE
    found = cow.find(page, page + 1)
    if found.absent or found.has_frames:
        yield from _write_steps(cow, start, end)


def _write_steps(cow: VmoPages, start: int, end: int) -> Steps[None]:
    """Write zeros, of which nobody has a copy; what is absent is READ first, and under TRAP_DIRTY the pager asked."""
    yield from write_steps(cow, start, end - start, content.zeros(end - start))
