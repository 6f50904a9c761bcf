"""Bringing pages in without reading them: COMMIT, PREFETCH, ALWAYS_NEED and pins. Zircon: zircon-pager 2.11, 5.2.

All of them look again after each wait, since any page may have come or gone meanwhile. Those that have no bytes to
return go on with what is left when the VMO shrinks (3.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages import content
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import COMMITTED, PageEvent, PageState, after
from vmofs.core.requests.access import Need, Steps
from vmofs.core.vmos import hints, writeback
from vmofs.status import VmoError
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo import PagerVmo

_ZEROS = frozenset({PageState.ZERO, PageState.UNTRACKED})
_DIRTY = frozenset({PageState.DIRTY})


def prefetch_steps(vmo: PagerVmo, offset: int, length: int) -> Steps[None]:
    """Ask for every gap."""
    vmo.check_inside(offset, length)
    yield from _page_in_steps(vmo, PageRange.of_bytes(offset, length), best_effort=False)


def always_need_steps(vmo: PagerVmo, offset: int, length: int) -> Steps[None]:
    """Ask for every gap, skipping those that fail; protected is the whole range, also what comes later."""
    vmo.check_inside(offset, length)
    pages = PageRange.of_bytes(offset, length)
    hints.always_need(vmo, pages)
    yield from _page_in_steps(vmo, pages, best_effort=True)


def _page_in_steps(vmo: PagerVmo, pages: PageRange, *, best_effort: bool) -> Steps[None]:
    """Ask for every gap; nothing that is present changes.

    With ``best_effort`` a gap that fails is skipped, all that was asked for, also if some of it has come by then.
    """
    position, looked_at = pages.start, 0
    while position < (end := min(pages.end, vmo.size_pages)):
        run = vmo.runs.at(position)
        if run is not None:
            position, looked_at = run.end, looked_at + 1
            if not looked_at % SLICE:
                yield None
            continue
        gap_end = vmo.runs.next_start(position, end)
        try:
            yield vmo.need_read(PageRange(position, end))
        except VmoError:
            if not best_effort:
                raise
            position = gap_end


def commit_steps(vmo: PagerVmo, offset: int, length: int) -> Steps[None]:
    """Give every page a frame: gaps are asked for, markers stay clean, pages of zero intervals become dirty.

    The last is a change that the pager does not know of, so under TRAP_DIRTY it is asked (CommitExtendedTail); a DIRTY
    covers zero pages only, because clean ones are committed already and must not become dirty (NoDirtyOnCommit).
    """
    vmo.check_inside(offset, length)
    yield from _commit_pages_steps(vmo, PageRange.of_bytes(offset, length))


def _commit_pages_steps(vmo: PagerVmo, pages: PageRange) -> Steps[None]:
    position, looked_at = pages.start, 0
    while position < (end := min(pages.end, vmo.size_pages)):
        looked_at += 1
        if not looked_at % SLICE:
            yield None
            continue
        rest = PageRange(position, end)
        run = vmo.runs.at(position)
        if run is None:
            yield vmo.need_read(rest)
            continue
        if run.state in _ZEROS:
            zero = writeback.first_run_in(vmo.runs, rest, _ZEROS)
            if vmo.options.trap_dirty:
                vmo.source.check_attached()
                yield Need(vmo.source, PacketCommand.DIRTY, zero)
                continue
            vmo.make_dirty(zero, PageEvent.COMMIT)
        elif run.state is PageState.MARKER:
            content.commit_zero(vmo.frames, vmo.runs, run.range & rest, after(run.state, PageEvent.COMMIT))
            vmo.used(run.range & rest)
        position = min(run.end, end)


def pin_steps(vmo: PagerVmo, offset: int, length: int, *, write: bool) -> Steps[Pin]:
    """Commit the pages, for writing also make them dirty, and pin them once all are there at the same moment."""
    vmo.check_inside(offset, length)
    pages = PageRange.of_bytes(offset, length)
    gathering = vmo.gathering.add(pages)
    try:
        while not (pins := (yield from _pins_steps(vmo, pages, _DIRTY if write else COMMITTED))):
            yield from (_make_writable_steps if write else _commit_pages_steps)(vmo, pages)
            vmo.check_inside(offset, length)
    finally:
        gathering.unpin()
    vmo.modified |= write and bool(pages)
    if len(pins) == 1:
        return pins[0]
    whole = vmo.pins.add(pages)
    for pin in pins:
        pin.unpin()
    return whole


def _pins_steps(vmo: PagerVmo, pages: PageRange, ready: frozenset[PageState]) -> Steps[list[Pin]]:
    """Pin all pages, in slices that are each looked at in one go; return no pins if some page was not ready."""
    pins: list[Pin] = []
    try:
        for part in vmo.runs.in_slices(pages):
            if pins:
                yield None
            if writeback.first_run_in(vmo.runs, part, ready).end < part.end:
                return []
            pins.append(vmo.pins.add(part))
        done, pins = pins or [vmo.pins.add(pages)], []
        return done
    finally:
        for pin in pins:
            pin.unpin()


def _make_writable_steps(vmo: PagerVmo, pages: PageRange) -> Steps[None]:
    """Make every page dirty as a write does, but without its batches."""
    position, looked_at = pages.start, 0
    while position < (end := min(pages.end, vmo.size_pages)):
        looked_at += 1
        if not looked_at % SLICE:
            yield None
            continue
        rest = PageRange(position, end)
        need = vmo.need_to_write(rest)
        if need is not None:
            yield need
        else:
            position = writeback.first_run_in(vmo.runs, rest, _DIRTY).end
