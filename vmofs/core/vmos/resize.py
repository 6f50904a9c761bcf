"""The size of a VMO and of its content. Zircon: zircon-pager 2.10, 3.8 (shrink), 4.2 (growth), 4.3 (stream size)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Steps
from vmofs.core.vmos import zero
from vmofs.status import BadStateError, OutOfRangeError, UnavailableError, VmoError
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, PageRange, page_count
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo import PagerVmo


def set_size_steps(vmo: PagerVmo, size: int) -> Steps[None]:
    """Cut or extend the VMO at once; then zero the rest of its last page, which may wait and may fail unnoticed.

    If many pieces are to be cut off, the size sinks in several steps.
    """
    while True:
        if not vmo.options.resizable:
            raise UnavailableError(f"the VMO of {vmo.size_pages * PAGE_SIZE} bytes was not made resizable")
        if size > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size} is above the largest VMO, {MAX_VMO_BYTES}")
        pinned = vmo.pinned.over(PageRange(page_count(size), vmo.size_pages))
        if pinned:
            raise BadStateError(f"pinned pages {pinned[0]} lie beyond the new size {size}")
        if size > vmo.stream_size:
            vmo.runs.check_ranges()
        step = _first_of_last_slice(vmo, page_count(size), vmo.size_pages)
        if step <= page_count(size):
            break
        _set_size(vmo, step * PAGE_SIZE)
        yield None
    _set_size(vmo, size)
    try:
        yield from zero.tail_steps(vmo, size)
    except VmoError:
        return  # Zircon ignores it: the size has changed, and what is beyond the stream size is nobody's


def _first_of_last_slice(vmo: PagerVmo, start: int, end: int) -> int:
    """Return from where on no more lies up to ``end``, pages or requests, than is cut off in one go."""
    requests = vmo.source.outstanding(PacketCommand.READ)
    return max(vmo.runs.reach_back(start, end, SLICE), requests.reach_back(start, end, SLICE))


def _set_size(vmo: PagerVmo, size: int) -> None:
    old, new = vmo.size_pages, page_count(size)
    beyond_stream = PageRange(page_count(vmo.stream_size), new)
    if size != vmo.stream_size:
        vmo.syncs.size_changed()
    vmo.size_pages, vmo.stream_size = new, size
    vmo.modified = True
    _cut(vmo, PageRange(new, old))
    for run in vmo.runs.over(beyond_stream):
        if run.state is PageState.UNTRACKED:  # now inside
            zero.clear(vmo, run.range, PageState.ZERO, keep=frozenset())
    vmo.put_zero(PageRange(old, new), PageState.ZERO)


def _cut(vmo: PagerVmo, pages: PageRange) -> None:
    """Free the pages beyond the new size, and count as resolved what is asked of them.

    Pages that were supplied, or became dirty, while the request for them was outstanding were counted then.
    """
    absent = vmo.runs.gaps(pages)
    undecided = RangeSet()
    undecided.add(pages)
    for run in vmo.runs.over(pages):
        vmo.mark_stale(run.range)
        if run.state is PageState.DIRTY:
            undecided.discard(run.range)
    vmo.free(pages)
    vmo.node.cut_children(pages.start)
    for hints in (vmo.always_needed, vmo.unneeded):
        hints.discard(pages)
    for part in absent:
        vmo.source.resolve(PacketCommand.READ, part)
    for part in undecided:
        vmo.source.resolve(PacketCommand.DIRTY, part)
    vmo.syncs.written_back(vmo, pages)


def set_stream_size_steps(vmo: PagerVmo, size: int) -> Steps[None]:
    """Zero the part of a page at the boundary, which may wait and fail; then move the boundary at once.

    If many pieces are to be zeroed, it moves in several steps.
    """
    while True:
        limit = vmo.size_pages * PAGE_SIZE
        if size > limit:
            raise OutOfRangeError(f"stream size {size} is beyond the size of the VMO, {limit}")
        old = vmo.stream_size
        if size == old:
            return
        vmo.runs.check_ranges()
        yield from _clear_beyond_steps(vmo, max(old, size))
        step = vmo.runs.reach_back(page_count(size), max(page_count(old), page_count(size)), SLICE)
        if page_count(size) < step < page_count(old):
            _set_stream_size(vmo, step * PAGE_SIZE)
            yield None
            continue
        yield from zero.tail_steps(vmo, min(old, size))
        if vmo.stream_size == old and size <= vmo.size_pages * PAGE_SIZE:
            break  # nobody has moved anything while this waited
    _set_stream_size(vmo, size)


def _clear_beyond_steps(vmo: PagerVmo, size: int) -> Steps[None]:
    """If there are many pieces, zero some of what lies beyond the content in any case, so that few are left."""
    pages = PageRange(page_count(size), vmo.size_pages)
    for part in vmo.runs.in_slices(pages):
        if part.end >= pages.end:
            break  # together with the move of the boundary
        beyond = part & PageRange(page_count(vmo.stream_size), vmo.size_pages)
        zero.clear(vmo, beyond, PageState.UNTRACKED, keep=frozenset({PageState.UNTRACKED}))
        yield None


def _set_stream_size(vmo: PagerVmo, size: int) -> None:
    first, last = page_count(min(vmo.stream_size, size)), page_count(size)
    zero.clear(vmo, PageRange(first, last), PageState.ZERO, keep=frozenset({PageState.ZERO}))
    beyond = PageRange(last, vmo.size_pages)
    zero.clear(vmo, beyond, PageState.UNTRACKED, keep=frozenset({PageState.UNTRACKED}))
    vmo.stream_size = size
    vmo.modified = True
    vmo.syncs.size_changed()
    vmo.syncs.written_back(vmo, beyond)
