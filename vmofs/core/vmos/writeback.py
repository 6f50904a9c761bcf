"""The writeback of a range, and the question what is dirty, slice by slice. Zircon: zircon-pager 4.4 to 4.6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.core.pages import dirty
from vmofs.core.requests.access import Steps
from vmofs.units import PageRange
from vmofs.vocabulary import DirtyRange

if TYPE_CHECKING:
    from vmofs.core.pages.runs import RunMap
    from vmofs.core.vmos.pager_pages import PagerPages


def begin_steps(cow: PagerPages, pages: PageRange, *, is_zero: bool) -> Steps[None]:
    """Begin the writeback of a range, slice by slice."""
    for part in cow.runs.in_slices(pages):
        if part.start > pages.start:
            yield None
        dirty.begin(cow.runs, part, cow.pinned, is_zero=is_zero)


def end_steps(cow: PagerPages, pages: PageRange) -> Steps[None]:
    """End the writeback of a range, slice by slice; readers of the gaps will ask, and who waits for it may go on."""
    reach = 0
    for part in cow.runs.in_slices(pages):
        if part.start > pages.start:
            yield None
        gaps, reach = dirty.end(cow.runs, part, reach)
        for gap in gaps:
            cow.changed(gap)
        cow.became_evictable(part)
        cow.written_back(part)
    cow.syncs.end(cow.source)


def dirty_ranges_steps(runs: RunMap, pages: PageRange) -> Steps[list[DirtyRange]]:
    """Return what is dirty in a range, looking at it slice by slice."""
    records: list[DirtyRange] = []
    for part in runs.in_slices(pages):
        if part.start > pages.start:
            yield None
        found = dirty.dirty_ranges(runs, part)
        if records and found and not (records[-1].is_zero or found[0].is_zero):
            last = records[-1].range
            if last.end == found[0].range.start:
                records[-1] = DirtyRange(PageRange(last.start, found.pop(0).range.end), is_zero=False)
        records += found
    return records
