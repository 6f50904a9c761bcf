"""The states of a page of a pager VMO and what each event makes of them: one table.

Zircon: zircon-pager contract 1.4 (states) and 4.10 (decision tables). A pair that is not in the table cannot happen:
the call refuses it before it gets here (OP_DIRTY over a gap is NOT_FOUND), or a request must be answered first (a
write to a gap is READ, then DIRTY under TRAP_DIRTY, then the write).

What only *may* happen depends on more than the state of one page and is decided where the ranges are known: BEGIN
reaches a zero interval only if it covers the interval's start, END only the part that is awaiting clean.
"""

# Rules
#
# 1. A page is in one state. A gap is the absence of a run, so nothing is stored for it.
# 2. Supply fills gaps, and changes no other state. `_table` adds that to all rows by itself.
# 3. A pair that is not in the table is a defect of vmofs: `after` raises. It is never an error of a caller.
# 4. Only CLEAN, DIRTY and AWAITING have a frame (`COMMITTED`). The zeros of the other states occupy nothing.
# 5. Only CLEAN is evicted. So whatever makes a page CLEAN says that it may go (`became_evictable`).
#
# How it works
#
#               supply page            write, DIRTY          BEGIN              END
#       GAP ------------------> CLEAN ------------> DIRTY ---------> AWAITING -------> CLEAN
#        | \--supply zero--> MARKER --write, DIRTY---^ ^                 |
#        |                                             +--write, DIRTY---+
#        |       ZERO             BEGIN                    END
#        +-------------> ZERO ---------> ZERO_AWAITING ---------> GAP      (the pager has written zeros)
#
# UNTRACKED is beyond the stream size. A write to any zeros makes them DIRTY. Detach makes gaps of CLEAN and MARKER.
# mount/SEMANTICS.md has the whole table, and a drawing that is made from it.
#
# A run of pages has one state (`Run.state`). ZERO_AWAITING is no state of a run: it is a length of a ZERO run
# (`Run.awaiting`), because BEGIN and END work on whole intervals. `writeback.page_state` makes one of the other.
#
# What is not nice
#
# Not every change looks here. ZERO and the changes of size (zero.py, resize.py) put states by themselves, and BEGIN and
# END of zero intervals (writeback.py) change lengths: what they do depends on ranges. The column of ZERO is compared by
# tests, but the core does not read it. UNTRACKED becomes ZERO when the stream size grows, which is no event.
#
# What else changes with this file
#
# `_CODE_BITS` in runs.py has room for eight states, and there are eight. The codes are their order here. Then
# `tools/state_diagram --write`, the table in tests/unit/test_core_states.py, the letters for states in
# tests/support/dirty_harness.py, and the models in tests/oracle/.

from __future__ import annotations

from enum import Enum


class PageState(Enum):
    """The state of one page."""

    GAP = "gap"
    """Absent: reading it must ask the pager."""
    CLEAN = "clean"
    """Supplied, not written since."""
    MARKER = "marker"
    """A clean zero page: supplied from an uncommitted aux page; occupies nothing."""
    DIRTY = "dirty"
    """Written, or declared dirty by the pager."""
    AWAITING = "awaiting clean"
    """Dirty, and the pager has begun to write it back."""
    ZERO = "dirty zero"
    """Part of a dirty zero interval: reads zeros, reported as dirty, occupies nothing."""
    ZERO_AWAITING = "dirty zero, awaiting clean"
    """Part of a zero interval that the pager has begun to write back. Stored as a length of the interval."""
    UNTRACKED = "untracked zero"
    """Beyond the stream size: reads zeros, not reported."""

    def __init__(self, _text: str) -> None:
        self.code = len(type(self).__members__)
        """Its place in the order above."""

    # Members are compared by identity. Enum hashes the name, in Python, for every look into a set or a table.
    __hash__ = object.__hash__


class PageEvent(Enum):
    """Something that happens to a page."""

    SUPPLY_PAGE = "supply page"
    SUPPLY_ZERO = "supply zero"
    WRITE = "write"
    OP_DIRTY = "DIRTY"
    BEGIN = "WRITEBACK_BEGIN"
    BEGIN_ZERO = "WRITEBACK_BEGIN is_zero"
    END = "WRITEBACK_END"
    ZERO = "ZERO"
    COMMIT = "COMMIT"
    EVICT = "evict"
    DETACH = "detach"

    __hash__ = object.__hash__


class IllegalTransitionError(AssertionError):
    """The core tried what the table does not have: a defect of vmofs, never of a caller."""


def _table() -> dict[tuple[PageState, PageEvent], PageState]:
    s, e = PageState, PageEvent
    rows: dict[PageState, dict[PageEvent, PageState]] = {
        s.GAP: {
            e.SUPPLY_PAGE: s.CLEAN,
            e.SUPPLY_ZERO: s.MARKER,
            e.BEGIN: s.GAP,
            e.BEGIN_ZERO: s.GAP,
            e.END: s.GAP,
            e.ZERO: s.ZERO,
            e.EVICT: s.GAP,
            e.DETACH: s.GAP,
        },
        s.CLEAN: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.CLEAN,
            e.BEGIN_ZERO: s.CLEAN,
            e.END: s.CLEAN,
            e.ZERO: s.ZERO,
            e.COMMIT: s.CLEAN,
            e.EVICT: s.GAP,
            e.DETACH: s.GAP,
        },
        s.MARKER: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.MARKER,
            e.BEGIN_ZERO: s.MARKER,
            e.END: s.MARKER,
            e.ZERO: s.MARKER,
            # It gets a frame of zeros. That is no write, so it is not dirty.
            e.COMMIT: s.CLEAN,
            # A marker occupies nothing, so nothing is gained.
            e.EVICT: s.MARKER,
            e.DETACH: s.GAP,
        },
        s.DIRTY: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.AWAITING,
            # The pager writes zeros back, and the page was written to since: it must stay dirty.
            e.BEGIN_ZERO: s.DIRTY,
            e.END: s.DIRTY,
            e.ZERO: s.ZERO,
            e.COMMIT: s.DIRTY,
            e.EVICT: s.DIRTY,
            # What was written and not written back would be lost: it stays readable.
            e.DETACH: s.DIRTY,
        },
        s.AWAITING: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.AWAITING,
            e.BEGIN_ZERO: s.AWAITING,
            # The pager has it now. So it is CLEAN, and not a gap: the bytes are here still.
            e.END: s.CLEAN,
            e.ZERO: s.ZERO,
            e.COMMIT: s.AWAITING,
            e.EVICT: s.AWAITING,
            e.DETACH: s.AWAITING,
        },
        s.ZERO: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.ZERO_AWAITING,
            e.BEGIN_ZERO: s.ZERO_AWAITING,
            e.END: s.ZERO,
            e.ZERO: s.ZERO,
            e.COMMIT: s.DIRTY,
            e.EVICT: s.ZERO,
            e.DETACH: s.ZERO,
        },
        s.ZERO_AWAITING: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.ZERO_AWAITING,
            e.BEGIN_ZERO: s.ZERO_AWAITING,
            # The pager has zeros there now, and gives them when it is asked.
            e.END: s.GAP,
            e.ZERO: s.ZERO_AWAITING,
            e.COMMIT: s.DIRTY,
            e.EVICT: s.ZERO_AWAITING,
            e.DETACH: s.ZERO_AWAITING,
        },
        s.UNTRACKED: {
            e.WRITE: s.DIRTY,
            e.OP_DIRTY: s.DIRTY,
            e.BEGIN: s.UNTRACKED,
            e.BEGIN_ZERO: s.UNTRACKED,
            e.END: s.UNTRACKED,
            e.ZERO: s.UNTRACKED,
            e.COMMIT: s.DIRTY,
            e.EVICT: s.UNTRACKED,
            e.DETACH: s.UNTRACKED,
        },
    }
    for state, row in rows.items():
        if state is not s.GAP:  # whatever is there is kept: supply never overwrites
            row |= {e.SUPPLY_PAGE: state, e.SUPPLY_ZERO: state}
    return {(state, event): new for state, row in rows.items() for event, new in row.items()}


TRANSITIONS = _table()
"""(state, event) -> state."""

COMMITTED = frozenset({PageState.CLEAN, PageState.DIRTY, PageState.AWAITING})
"""States in which a page has a frame; counted in ``committed_pages``."""


def after(state: PageState, event: PageEvent) -> PageState:
    """Return the state that ``event`` leads to.

    Raises:
        IllegalTransitionError: the table has no such pair.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.value} over a page that is {state.value}") from None
