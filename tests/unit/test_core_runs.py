"""RunMap: runs of pages in one state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.core.pages.runs import NO_FRAME, Run, RunMap
from vmofs.core.pages.states import PageState
from vmofs.units import PageRange

S = PageState


def filled(*runs: Run) -> RunMap:
    result = RunMap()
    for run in runs:
        result.put(run)
    result.check()
    return result


def all_of(runs: RunMap) -> list[Run]:
    return runs.whole_over(PageRange(0, 1000))


def test_runs_that_continue_each_other_melt_on_both_sides() -> None:
    runs = filled(Run(0, 2, S.CLEAN, 10), Run(4, 6, S.CLEAN, 14), Run(2, 4, S.CLEAN, 12))
    assert all_of(runs) == [Run(0, 6, S.CLEAN, 10)]
    assert (len(runs), runs.committed_pages, runs.pages_in(S.CLEAN)) == (1, 6, 6)


@pytest.mark.parametrize("right", [Run(2, 4, S.CLEAN, 20), Run(2, 4, S.DIRTY, 12), Run(3, 4, S.CLEAN, 13)])
def test_runs_of_another_state_place_or_frame_stay_apart(right: Run) -> None:
    assert len(filled(Run(0, 2, S.CLEAN, 10), right)) == 2
    assert len(filled(right, Run(0, 2, S.CLEAN, 10))) == 2


def test_taking_the_middle_leaves_both_ends_with_their_frames() -> None:
    runs = filled(Run(2, 8, S.DIRTY, 10))
    assert runs.take(PageRange(4, 6)) == [Run(4, 6, S.DIRTY, 12)]
    assert all_of(runs) == [Run(2, 4, S.DIRTY, 10), Run(6, 8, S.DIRTY, 14)]
    runs.put(Run(4, 6, S.DIRTY, 12))
    assert all_of(runs) == [Run(2, 8, S.DIRTY, 10)]
    runs.check()


def test_taking_cuts_at_both_ends_and_keeps_gaps() -> None:
    runs = filled(Run(0, 3, S.CLEAN, 5), Run(5, 6, S.MARKER), Run(6, 9, S.CLEAN, 20))
    assert runs.take(PageRange(2, 8)) == [Run(2, 3, S.CLEAN, 7), Run(5, 6, S.MARKER), Run(6, 8, S.CLEAN, 20)]
    assert all_of(runs) == [Run(0, 2, S.CLEAN, 5), Run(8, 9, S.CLEAN, 22)]
    assert runs.take(PageRange(3, 3)) == []


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (PageRange(2, 4), [Run(4, 10, S.ZERO, NO_FRAME, 3)]),  # at the very start: the length moves on
        (PageRange(0, 9), [Run(9, 10, S.ZERO)]),  # beyond the awaiting part
        (PageRange(5, 6), [Run(2, 5, S.ZERO, NO_FRAME, 5), Run(6, 10, S.ZERO)]),  # the left piece keeps it
        (PageRange(8, 10), [Run(2, 8, S.ZERO, NO_FRAME, 5)]),
    ],
)
def test_a_split_interval_hands_on_its_awaiting_length(taken: PageRange, left: list[Run]) -> None:
    runs = filled(Run(2, 10, S.ZERO))
    runs.set_awaiting(2, 5)
    runs.take(taken)
    assert all_of(runs) == left
    runs.check()


def test_an_interval_that_is_put_brings_its_awaiting_length_unless_it_melts() -> None:
    runs = filled(Run(2, 6, S.ZERO, NO_FRAME, 3))
    assert all_of(runs) == [Run(2, 6, S.ZERO, NO_FRAME, 3)]
    runs.put(Run(6, 8, S.ZERO, NO_FRAME, 2))
    assert all_of(runs) == [Run(2, 8, S.ZERO, NO_FRAME, 3)]
    runs.put(Run(0, 2, S.ZERO, NO_FRAME, 1))
    assert all_of(runs) == [Run(0, 8, S.ZERO, NO_FRAME, 1)]
    runs.check()


def test_a_page_finds_its_run() -> None:
    runs = filled(Run(2, 4, S.MARKER), Run(6, 7, S.UNTRACKED))
    assert [run and run.start for run in map(runs.at, range(8))] == [None, None, 2, 2, None, None, 6, None]
    assert runs.gaps(PageRange(0, 9)) == [PageRange(0, 2), PageRange(4, 6), PageRange(7, 9)]
    assert runs.gaps(PageRange(3, 7)) == [PageRange(4, 6)]
    assert [runs.next_start(page, 9) for page in (0, 3, 7)] == [2, 6, 9]
    assert runs.next_start(0, 1) == 1


def test_what_is_over_a_range_is_cut_to_it() -> None:
    runs = filled(Run(0, 4, S.CLEAN, 10), Run(6, 9, S.MARKER))
    assert runs.over(PageRange(1, 3)) == [Run(1, 3, S.CLEAN, 11)]
    assert runs.over(PageRange(2, 8)) == [Run(2, 4, S.CLEAN, 12), Run(6, 8, S.MARKER)]
    assert runs.over(PageRange(4, 6)) == runs.over(PageRange(3, 3)) == []
    assert [run.frames for run in all_of(runs)] == [(10, 4), None]
    assert runs.frames() == [(10, 4)]


def test_a_run_moves_and_changes_with_its_frames() -> None:
    run = Run(3, 5, S.CLEAN, 8)
    assert run.moved(-2) == Run(1, 3, S.CLEAN, 8)
    assert run.becomes(S.DIRTY) == Run(3, 5, S.DIRTY, 8)
    assert run.range == PageRange(3, 5)


STATES = st.sampled_from([None, S.CLEAN, S.MARKER, S.DIRTY])


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), STATES), max_size=10))
def test_a_run_map_is_a_map_of_pages(changes: list[tuple[int, int, PageState | None]]) -> None:
    runs, pages = RunMap(), dict[int, tuple[PageState, int]]()
    for serial, (start, length, state) in enumerate(changes):
        window = PageRange(start, start + length)
        runs.take(window)
        for page in range(*window):
            pages.pop(page, None)
        if state is not None:
            frame = NO_FRAME if state is S.MARKER else 100 * serial + start
            runs.put(Run(start, window.end, state, frame))
            pages |= {page: (state, frame if frame == NO_FRAME else 100 * serial + page) for page in range(*window)}
        runs.check()
    found = {
        page: (run.state, NO_FRAME if run.frame == NO_FRAME else run.frame + page - run.start)
        for run in all_of(runs)
        for page in range(*run.range)
    }
    assert found == pages
