"""The end of the bond between a VMO and its pager. Zircon: zx_pager_detach_vmo, zircon-pager 2.6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages.states import PageEvent, PageState, after
from vmofs.core.requests.access import Steps
from vmofs.core.requests.request import SourceState
from vmofs.status import Status
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.vmos.pager_pages import PagerPages


def detach_steps(cow: PagerPages) -> Steps[list[PageRange]]:
    """End the bond: waiters get BAD_STATE, clean pages and markers go; return what went, slice by slice."""
    was_attached = cow.source.state is SourceState.ATTACHED
    if was_attached:
        cow.source.state = SourceState.DETACHED
        cow.forget_marks()
    dropped: list[PageRange] = []
    for part in cow.runs.in_slices(PageRange(0, cow.size_pages)):
        if part.start:
            yield None
        dropped += cow.drop(
            [
                kept
                for run in cow.runs.over(part)
                if after(run.state, PageEvent.DETACH) is PageState.GAP
                for kept in cow.pinned.missing(run.range)
            ]
        )
    if was_attached:
        yield from fail_all_steps(cow)
        cow.source.send_note(PacketCommand.COMPLETE)
    return dropped


def fail_all_steps(cow: PagerPages) -> Steps[None]:
    """End all requests of a VMO that is not attached any more, some at a time."""
    while cow.source.fail_some(Status.BAD_STATE):
        yield None
