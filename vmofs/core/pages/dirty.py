"""Dirty tracking over the pages of one VMO: begin and end of a writeback, and what is dirty. Zircon: zircon-pager 4.

These work on the runs alone; they neither wait nor allocate.
"""

from __future__ import annotations

from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import Run, RunMap
from vmofs.core.pages.states import PageEvent, PageState, after
from vmofs.units import PageRange
from vmofs.vocabulary import DirtyRange


def begin(runs: RunMap, pages: PageRange, pinned: RangeSet, *, is_zero: bool) -> None:
    """Mark dirty pages as awaiting clean, except pinned ones, and zero intervals whose start is covered (4.5, 4.6).

    With ``is_zero`` committed pages are skipped: one may have been dirtied since the pager asked what is dirty.
    """
    event = PageEvent.BEGIN_ZERO if is_zero else PageEvent.BEGIN
    for run in runs.whole_over(pages):
        if run.state is PageState.ZERO:
            if run.start >= pages.start:
                covered = min(pages.end, run.end) - run.start
                runs.set_awaiting(run.start, max(run.awaiting, covered))
        elif run.state is PageState.DIRTY:
            for part in pinned.missing(run.range & pages):
                _change(runs, part, event)


def end(runs: RunMap, pages: PageRange, reach: int = 0) -> tuple[list[PageRange], int]:
    """Make awaiting pages clean, and the awaiting front of zero intervals whose start is covered gaps; return those.

    An awaiting length that is longer than its interval (a write has split it) reaches the pieces behind it, as far as
    this one WRITEBACK_END goes: how far is returned too, and ``reach`` is what was for the pages before.
    """
    gaps = []
    for run in runs.whole_over(pages):
        if run.state is PageState.AWAITING:
            _change(runs, run.range & pages, PageEvent.END)
        elif run.state is PageState.ZERO and run.start >= pages.start:
            reach = max(reach, run.start + run.awaiting)
            cleaned = PageRange(run.start, min(reach, pages.end, run.end))
            if cleaned:
                assert after(PageState.ZERO_AWAITING, PageEvent.END) is PageState.GAP
                runs.take(cleaned)
                gaps.append(cleaned)
    return gaps, reach


def make_dirty(runs: RunMap, pages: PageRange, event: PageEvent) -> None:
    """Make pages dirty that all have frames, for a write or an OP_DIRTY."""
    for run in runs.over(pages):
        if run.state is not PageState.DIRTY:
            _change(runs, run.range, event)


def _change(runs: RunMap, pages: PageRange, event: PageEvent) -> None:
    """Let an event happen to pages that keep their frames."""
    for run in runs.take(pages):
        runs.put(run.becomes(after(run.state, event)))


def dirty_ranges(runs: RunMap, pages: PageRange) -> list[DirtyRange]:
    """Return what is dirty, ascending: dirty and awaiting pages melted together, zero intervals apart (4.4)."""
    records: list[DirtyRange] = []
    for run in runs.over(pages):
        if run.state is PageState.ZERO:
            records.append(DirtyRange(run.range, is_zero=True))
        elif run.state in {PageState.DIRTY, PageState.AWAITING}:
            last = records[-1] if records else None
            if last is not None and not last.is_zero and last.range.end == run.start:
                records[-1] = DirtyRange(PageRange(last.range.start, run.end), is_zero=False)
            else:
                records.append(DirtyRange(run.range, is_zero=False))
    return records


def first_run_in(runs: RunMap, pages: PageRange, states: frozenset[PageState]) -> PageRange:
    """Return the longest run from the start of ``pages`` whose pages are all in one of ``states``."""
    stop = pages.start
    while stop < pages.end:  # not all runs at once: mostly it is the first that ends it
        run = runs.at(stop)
        if run is None or run.state not in states:
            break
        stop = min(run.end, pages.end)
    return PageRange(pages.start, stop)


def page_state(run: Run, page: int) -> PageState:
    """Return the state of one page that lies in ``run``, awaiting zero pages told apart."""
    if run.state is PageState.ZERO and page < run.start + run.awaiting:
        return PageState.ZERO_AWAITING
    return run.state
