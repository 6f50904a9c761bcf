"""The end of the bond between a VMO and its pager. Zircon: zx_pager_detach_vmo, zircon-pager 2.6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages.states import PageEvent, PageState, after
from vmofs.core.requests.access import Steps
from vmofs.core.requests.page_source import SourceState
from vmofs.status import Status
from vmofs.units import PageRange

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo import PagerVmo


def detach_steps(vmo: PagerVmo) -> Steps[list[PageRange]]:
    """End the bond: waiters get BAD_STATE, clean pages and markers go; return what went, slice by slice."""
    was_attached = vmo.source.state is SourceState.ATTACHED
    if was_attached:
        vmo.source.state = SourceState.DETACHED
    dropped: list[PageRange] = []
    for part in vmo.runs.in_slices(PageRange(0, vmo.size_pages)):
        if part.start:
            yield None
        dropped += vmo.drop(
            [
                kept
                for run in vmo.runs.over(part)
                if after(run.state, PageEvent.DETACH) is PageState.GAP
                for kept in vmo.pinned.missing(run.range)
            ]
        )
    if was_attached:
        yield from fail_all_steps(vmo)
        vmo.source.send_complete()
    return dropped


def fail_all_steps(vmo: PagerVmo) -> Steps[None]:
    """End all requests of a VMO that is not attached any more, some at a time."""
    while vmo.source.fail_some(Status.BAD_STATE):
        yield None
