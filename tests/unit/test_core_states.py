"""The table of page states against zircon-pager 1.4 and 4.10, and the picture of it in the documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vmofs.core.pages.states import COMMITTED, TRANSITIONS, IllegalTransitionError, PageEvent, PageState, after

ROOT = Path(__file__).parents[2]

# Written from the text of the contract, not from the code. "=": the state stays; "!": must not get there.
#
# supply page, supply zero: a gap is filled, anything else is kept (2.4).        write: after READ and DIRTY (4.1).
# DIRTY: NOT_FOUND over a gap (2.5).      BEGIN: dirty pages; with is_zero committed pages are skipped (4.5, 4.6).
# ZERO: whole pages (4.8).                COMMIT: a gap is paged in first, markers become clean, zeros dirty (2.11).
# evict: clean pages only (5.1).          detach: clean pages and markers go (3.7).
EXPECTED = """
state         | supply page | supply zero | write | DIRTY | BEGIN    | BEGIN zero | END   | ZERO | COMMIT |evict|detach
GAP           | CLEAN       | MARKER      | !     | !     | =        | =          | =     | ZERO | !      | =     | =
CLEAN         | =           | =           | DIRTY | DIRTY | =        | =          | =     | ZERO | =      | GAP   | GAP
MARKER        | =           | =           | DIRTY | DIRTY | =        | =          | =     | =    | CLEAN  | =     | GAP
DIRTY         | =           | =           | =     | =     | AWAITING | =          | =     | ZERO | =      | =     | =
AWAITING      | =           | =           | DIRTY | DIRTY | =        | =          | CLEAN | ZERO | =      | =     | =
ZERO          | =           | =           | DIRTY | DIRTY | ZERO_AWAITING | ZERO_AWAITING | = | = | DIRTY | =   | =
ZERO_AWAITING | =           | =           | DIRTY | DIRTY | =        | =          | GAP   | =    | DIRTY  | =     | =
UNTRACKED     | =           | =           | DIRTY | DIRTY | =        | =          | =     | =    | DIRTY  | =     | =
"""

EVENTS = {
    "supply page": PageEvent.SUPPLY_PAGE,
    "supply zero": PageEvent.SUPPLY_ZERO,
    "write": PageEvent.WRITE,
    "DIRTY": PageEvent.OP_DIRTY,
    "BEGIN": PageEvent.BEGIN,
    "BEGIN zero": PageEvent.BEGIN_ZERO,
    "END": PageEvent.END,
    "ZERO": PageEvent.ZERO,
    "COMMIT": PageEvent.COMMIT,
    "evict": PageEvent.EVICT,
    "detach": PageEvent.DETACH,
}


def expected() -> dict[tuple[PageState, PageEvent], PageState]:
    """Return what the table above says."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in EXPECTED.strip().splitlines()]
    table = {}
    for name, *cells in rows:
        for event, cell in zip(head[1:], cells, strict=True):
            if cell != "!":
                table[PageState[name], EVENTS[event]] = PageState[name if cell == "=" else cell]
    return table


def test_the_expected_table_names_every_state_and_event() -> None:
    assert set(EVENTS.values()) == set(PageEvent)
    assert {state for state, _ in expected()} == set(PageState)


@pytest.mark.parametrize("event", PageEvent)
@pytest.mark.parametrize("state", PageState)
def test_every_pair_of_state_and_event(state: PageState, event: PageEvent) -> None:
    if (state, event) in expected():
        assert after(state, event) is expected()[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"{event.value} over a page that is {state.value}"):
            after(state, event)


def test_the_states_that_have_memory_are_those_with_bytes_of_their_own() -> None:
    assert {PageState.CLEAN, PageState.DIRTY, PageState.AWAITING} == COMMITTED


def test_what_fills_a_gap_and_what_leaves_one() -> None:
    fills = {event for (state, event), new in TRANSITIONS.items() if state is PageState.GAP is not new}
    assert fills == {PageEvent.SUPPLY_PAGE, PageEvent.SUPPLY_ZERO, PageEvent.ZERO}
    empties = {event for (state, event), new in TRANSITIONS.items() if state is not PageState.GAP is new}
    assert empties == {PageEvent.EVICT, PageEvent.DETACH, PageEvent.END}


def test_the_picture_in_the_documentation_is_up_to_date() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "tools/state_diagram"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    text = (ROOT / "mount/SEMANTICS.md").read_text()
    assert text.count("<!-- states -->") == text.count("<!-- /states -->") == 1
    copy = text.split("<!-- states -->\n")[1].split("<!-- /states -->")[0]
    assert copy == printed, "run tools/state_diagram --write"
