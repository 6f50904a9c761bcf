"""Bringing pages in without reading them: COMMIT, PREFETCH, ALWAYS_NEED and pins. Zircon: zircon-pager 2.11, 5.2.

All of them look again after each wait, since any page may have come or gone meanwhile. Those that have no bytes to
return go on with what is left when the VMO shrinks (3.8).
"""

from __future__ import annotations

from vmofs.core.pages import dirty
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import COMMITTED, PageState
from vmofs.core.requests.access import Steps
from vmofs.core.vmos import hints
from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.status import VmoError
from vmofs.units import PageRange

_DIRTY = frozenset({PageState.DIRTY})


def commit_steps(cow: VmoPages, offset: int, length: int) -> Steps[None]:
    """Give every page a frame; absent ones are READ."""
    return cow.in_turns(offset, length, cow.commit_some)


def prefetch_steps(cow: VmoPages, offset: int, length: int) -> Steps[None]:
    """Ask for every gap; nothing is forked, and nothing that is present changes."""
    cow.check_inside(offset, length)
    yield from _page_in_steps(cow, PageRange.of_bytes(offset, length), best_effort=False)


def always_need_steps(cow: VmoPages, offset: int, length: int) -> Steps[None]:
    """Ask for every gap, skipping those that fail; protected is the whole range, also what comes later."""
    cow.check_inside(offset, length)
    pages = PageRange.of_bytes(offset, length)
    hints.always_need(cow, pages)
    yield from _page_in_steps(cow, pages, best_effort=True)


def _page_in_steps(cow: VmoPages, pages: PageRange, *, best_effort: bool) -> Steps[None]:
    """Ask for every gap.

    With ``best_effort`` a gap that fails is skipped, all that was asked for, also if some of it has come by then.
    """
    position, looked_at = pages.start, 0
    while position < (end := min(pages.end, cow.size_pages)):
        looked_at += 1
        if not looked_at % SLICE:
            yield None
            continue
        found = cow.find(position, end)
        if found.absent:
            try:
                yield found.need()
            except VmoError:
                if not best_effort:
                    raise
            else:
                continue
        position += found.pages


def pin_steps(cow: VmoPages, offset: int, length: int, *, write: bool) -> Steps[Pin]:
    """Commit the pages, for writing also make them dirty, and pin them once all are there at the same moment."""
    cow.check_inside(offset, length)
    pages = PageRange.of_bytes(offset, length)
    if isinstance(cow, PagerPages):
        return (yield from _pin_root_steps(cow, offset, length, write=write))
    yield from cow.in_turns(offset, length, cow.commit_some)
    cow.check_inside(offset, length)
    cow.own(pages)  # what was forked and zeroed while this waited; nothing can be absent again
    return cow.pins.add(pages)


def _pin_root_steps(cow: PagerPages, offset: int, length: int, *, write: bool) -> Steps[Pin]:
    pages = PageRange.of_bytes(offset, length)
    gathering = cow.gathering.add(pages)
    try:
        while not (pins := (yield from _pins_steps(cow, pages, _DIRTY if write else COMMITTED))):
            yield from cow.in_turns(offset, length, cow.make_writable if write else cow.commit_some)
            cow.check_inside(offset, length)
    finally:
        gathering.unpin()
    cow.modified |= write and bool(pages)
    if len(pins) == 1:
        return pins[0]
    whole = cow.pins.add(pages)
    for pin in pins:
        pin.unpin()
    return whole


def _pins_steps(cow: PagerPages, pages: PageRange, ready: frozenset[PageState]) -> Steps[list[Pin]]:
    """Pin all pages, in slices that are each looked at in one go; return no pins if some page was not ready."""
    pins: list[Pin] = []
    try:
        for part in cow.runs.in_slices(pages):
            if pins:
                yield None
            if dirty.first_run_in(cow.runs, part, ready).end < part.end:
                return []
            pins.append(cow.pins.add(part))
        done, pins = pins or [cow.pins.add(pages)], []
        return done
    finally:
        for pin in pins:
            pin.unpin()
