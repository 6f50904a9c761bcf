"""The size of a VMO and of its content. Zircon: zircon-pager 2.10, 3.8 (shrink), 4.2 (growth), 4.3 (stream size)."""

from __future__ import annotations

from vmofs.core.pages.spans import SLICE
from vmofs.core.requests.access import Steps
from vmofs.core.vmos import zero
from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.status import OutOfRangeError, VmoError
from vmofs.units import PAGE_SIZE, PageRange, page_count


def set_size_steps(cow: VmoPages, size: int) -> Steps[None]:
    """Cut or extend the VMO at once; then zero the rest of its last page, which may wait and may fail unnoticed.

    If many pieces are to be cut off, the size sinks in several steps.
    """
    tail = cow.tail_after(size)
    while True:
        cow.check_new_size(size)
        step = cow.first_to_cut(page_count(size))
        if step <= page_count(size):
            break
        cow.sink(step * PAGE_SIZE)
        yield None
    cow.resize(size)
    try:
        yield from zero.tail_steps(cow, tail)
    except VmoError:
        return  # Zircon ignores it: the size has changed, and what is beyond the stream size is nobody's


def set_stream_size_steps(cow: VmoPages, size: int) -> Steps[None]:
    """Move the boundary between the content and the zeros behind it. What lay beyond, then or now, becomes zero."""
    if isinstance(cow, PagerPages):
        yield from _set_stream_size_steps(cow, size)
        return
    cow.check_inside(size, 0)
    yield from zero_beyond_steps(cow, PageRange(0, cow.size_pages), cow.stream_size, size)
    cow.stream_size = size


def zero_beyond_steps(cow: VmoPages, shown: PageRange, old: int, new: int) -> Steps[None]:
    """Zero all of a window behind the content, whose size was ``old`` and is to be ``new``; nothing if it stays."""
    if new != old:
        end = min(old, new)
        yield from zero.zero_steps(cow, shown.offset + end, shown.length - end)


def _set_stream_size_steps(cow: PagerPages, size: int) -> Steps[None]:
    """Zero the part of a page at the boundary, which may wait and fail; then move the boundary at once.

    If many pieces are to be zeroed, it moves in several steps.
    """
    while True:
        limit = cow.size_pages * PAGE_SIZE
        if size > limit:
            raise OutOfRangeError(f"stream size {size} is beyond the size of the VMO, {limit}")
        old = cow.stream_size
        if size == old:
            return
        cow.runs.check_ranges()
        yield from _untrack_beyond_steps(cow, max(old, size))
        step = cow.runs.reach_back(page_count(size), max(page_count(old), page_count(size)), SLICE)
        if page_count(size) < step < page_count(old):
            cow.move_content_end(step * PAGE_SIZE)
            yield None
            continue
        yield from zero.tail_steps(cow, min(old, size))
        if cow.stream_size == old and size <= cow.size_pages * PAGE_SIZE:
            break  # nobody has moved anything while this waited
    cow.move_content_end(size)


def _untrack_beyond_steps(cow: PagerPages, size: int) -> Steps[None]:
    """If there are many pieces, zero some of what lies beyond the content in any case, so that few are left."""
    pages = PageRange(page_count(size), cow.size_pages)
    for part in cow.runs.in_slices(pages):
        if part.end >= pages.end:
            break  # together with the move of the boundary
        cow.untrack(part & PageRange(page_count(cow.stream_size), cow.size_pages))
        yield None
