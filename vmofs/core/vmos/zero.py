"""ZERO: whole pages become zero intervals without any request, parts of pages are written. Zircon: zircon-pager 4.8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages import content
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import COMMITTED, PageEvent, PageState
from vmofs.core.requests.access import Steps
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo import PagerVmo

_READ_AS_ZERO = frozenset({PageState.MARKER, PageState.ZERO, PageState.UNTRACKED})
_NOBODY = object()  # who keeps a copy of what is written because he wrote it: ZERO has no bytes
_PIECES = 16  # pinned and others, after which others have their turn
_IN_PLACE_PAGES = 16  # pinned pages are written in pieces of this many, so that no long string of zeros is made


def zero_steps(vmo: PagerVmo, offset: int, length: int) -> Steps[None]:
    """Zero bytes: first the parts of pages at the start and at the end, which may wait, then the pages between."""
    vmo.check_inside(offset, length)
    vmo.runs.check_ranges()
    start, end = offset, offset + length
    if start % PAGE_SIZE:
        start = min(end, start + -start % PAGE_SIZE)
        yield from _part_steps(vmo, offset, start)
        vmo.check_inside(offset, length)
    if start < end and end % PAGE_SIZE:
        end -= end % PAGE_SIZE
        yield from _part_steps(vmo, end, offset + length)
        vmo.check_inside(offset, length)
    pieces, position, last = 0, start // PAGE_SIZE, end // PAGE_SIZE
    while position < last:
        pieces, first = pieces + 1, position
        pinned = vmo.pinned.over(PageRange(first, min(last, first + _IN_PLACE_PAGES)))
        if pinned and pinned[0].start == first:
            position = pinned[0].end
            yield from _write_steps(vmo, first * PAGE_SIZE, position * PAGE_SIZE)
        else:
            position = vmo.runs.reach(first, vmo.pinned.next_start(first, last), SLICE)
            clear(vmo, PageRange(first, position), PageState.ZERO, keep=_READ_AS_ZERO)
            vmo.modified = True
        if position < last and (not pinned or not pieces % _PIECES):
            yield None
        vmo.check_inside(offset, length)


def tail_steps(vmo: PagerVmo, offset: int) -> Steps[None]:
    """Zero the bytes from ``offset`` to the end of its page; none if it is the start of one."""
    if offset % PAGE_SIZE:
        yield from _part_steps(vmo, offset, offset + -offset % PAGE_SIZE)


def _part_steps(vmo: PagerVmo, start: int, end: int) -> Steps[None]:
    """Zero bytes of one page, unless it reads as zeros anyway."""
    if vmo.state_at(start // PAGE_SIZE) not in _READ_AS_ZERO | {PageState.ZERO_AWAITING}:
        yield from _write_steps(vmo, start, end)


def _write_steps(vmo: PagerVmo, start: int, end: int) -> Steps[None]:
    """Write zeros: absent pages are READ first, and under TRAP_DIRTY the pager is asked."""
    yield from vmo.write_steps(start, content.zeros(end - start), _NOBODY)


def clear(vmo: PagerVmo, pages: PageRange, state: PageState, keep: frozenset[PageState]) -> None:
    """Turn pages into zeros of ``state``, except those in the states ``keep``; readers of the gaps wake.

    Frames are given back. Pinned pages are zeroed where they are, and become dirty.
    """
    gaps = vmo.runs.gaps(pages)
    for run in vmo.runs.over(pages):
        if run.state in keep:
            continue
        for part in vmo.pinned.over(run.range):
            content.wipe_committed(vmo.frames, vmo.runs, part.offset, part.end * PAGE_SIZE)
            vmo.make_dirty(part, PageEvent.WRITE)
            vmo.mark_stale(part)
        for part in vmo.pinned.missing(run.range):
            if run.state in COMMITTED:
                vmo.mark_stale(part)
            vmo.free(part)
            vmo.put_zero(part, state)
    for gap in gaps:
        vmo.put_zero(gap, state)
        vmo.source.resolve(PacketCommand.READ, gap)
