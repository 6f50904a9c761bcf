"""Page frames: who owns which, and what they read as."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.core.pages import frames as frames_module
from vmofs.core.pages.frames import FrameRun, Frames
from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE


@pytest.fixture
def frames() -> Frames:
    return Frames()


def test_fresh_frames_are_zero_also_when_they_were_used_before(frames: Frames) -> None:
    (run,) = frames.allocate(2)
    frames.view(run)[:] = b"x" * 2 * PAGE_SIZE
    frames.free(run)
    (again,) = frames.allocate(2)
    assert again == run
    assert not any(frames.view(again))
    frames.check([again])


def test_frames_of_one_allocation_are_consecutive_where_memory_allows(frames: Frames) -> None:
    runs = [frames.allocate(2)[0] for _ in range(4)]
    frames.free(runs[0])
    frames.free(runs[2])
    assert frames.allocate(5) == [runs[0], runs[2], FrameRun(8, 1)]
    frames.check([FrameRun(0, 9)])


def test_a_near_free_range_that_fits_is_preferred_to_a_smaller_one(frames: Frames) -> None:
    (run,) = frames.allocate(12)
    for start, pages in ((0, 1), (2, 3), (6, 6)):
        frames.free(FrameRun(run.frame + start, pages))
    assert frames.allocate(3) == [FrameRun(2, 3)]
    assert frames.allocate(4) == [FrameRun(6, 4)]
    assert frames.allocate(1) == [FrameRun(10, 1)]  # what is left of that range goes next
    assert frames.allocate(2) == [FrameRun(0, 1), FrameRun(11, 1)]


def test_far_free_ranges_are_not_looked_at(frames: Frames) -> None:
    (run,) = frames.allocate(40)
    for start in range(0, 20, 2):
        frames.free(FrameRun(run.frame + start, 1))
    frames.free(FrameRun(30, 2))
    assert frames.allocate(2) == [FrameRun(0, 1), FrameRun(2, 1)]


def test_allocating_nothing_gives_nothing(frames: Frames) -> None:
    assert frames.allocate(0) == []
    frames.check([])


def test_the_limit_counts_frames_in_use() -> None:
    frames = Frames(limit_pages=3)
    (run,) = frames.allocate(2)
    with pytest.raises(NoMemoryError, match="2 of at most 3"):
        frames.allocate(2)
    frames.free(run)
    frames.allocate(3)
    statistics = frames.statistics()
    assert (statistics.used, statistics.peak, statistics.held, statistics.limit) == (3, 3, 0, 3)


def test_the_reserved_address_space_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "_RESERVE_BYTES", 4 * PAGE_SIZE)
    frames = Frames()
    (run,) = frames.allocate(4)
    with pytest.raises(NoMemoryError, match="address space"):
        frames.allocate(1)
    frames.free(run._replace(pages=1))
    assert frames.allocate(1) == [FrameRun(0, 1)]


def test_less_address_space_is_reserved_where_the_kernel_grants_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    map_memory = mmap.mmap

    def grudging(fileno: int, size: int, *, flags: int) -> mmap.mmap:
        asked.append(size)
        if size > 2**26:
            raise OSError("no")
        return map_memory(fileno, size, flags=flags)

    monkeypatch.setattr(frames_module, "_RESERVE_BYTES", 2**28)
    monkeypatch.setattr(mmap, "mmap", grudging)
    Frames()
    assert asked == [2**28, 2**27, 2**26]
    monkeypatch.setattr(frames_module, "_SMALLEST_RESERVE_BYTES", 2**27)
    with pytest.raises(OSError, match="no"):
        Frames()


def test_lent_frames_keep_their_content_until_given_back(frames: Frames) -> None:
    (run,) = frames.allocate(1)
    frames.view(run)[:3] = b"abc"
    loan = frames.lend(frames.view(run)[1:3])
    frames.free(run)
    assert bytes(frames.view(run)[:3]) == b"abc"
    assert frames.allocate(1) == [FrameRun(1, 1)]
    assert (frames.statistics().held, frames.statistics().used) == (1, 2)
    frames.check([FrameRun(1, 1)])
    frames.give_back(loan)
    assert frames.statistics().held == 0
    assert frames.allocate(1) == [run]


def test_what_is_not_lent_is_free_at_once(frames: Frames) -> None:
    (run,) = frames.allocate(4)
    loan = frames.lend(frames.view(run._replace(frame=1, pages=2)))
    frames.free(run)
    assert (frames.statistics().held, frames.used) == (2, 2)
    assert frames.allocate(2) == [FrameRun(0, 1), FrameRun(3, 1)]
    frames.give_back(loan)


def test_frames_that_were_lent_twice_are_held_until_both_loans_end(frames: Frames) -> None:
    (run,) = frames.allocate(2)
    first, second = frames.lend(frames.view(run)), frames.lend(frames.view(run._replace(pages=1)))
    frames.free(run)
    frames.give_back(first)
    assert frames.statistics().held == 1
    frames.give_back(second)
    assert frames.statistics().held == 0


@pytest.mark.parametrize("data", [b"copy", memoryview(b"copy"), memoryview(bytearray())])
def test_lending_what_is_no_frame_holds_nothing(frames: Frames, data: bytes | memoryview) -> None:
    (run,) = frames.allocate(1)
    loan = frames.lend(data)
    frames.free(run)
    assert frames.used == 0
    frames.give_back(loan)


def test_before_the_limit_is_passed_others_are_asked_to_make_room() -> None:
    frames = Frames(4)
    (run,) = frames.allocate(4)
    asked: list[tuple[int, list[FrameRun]]] = []

    def reclaim(pages: int, spared: Iterable[FrameRun]) -> None:
        asked.append((pages, list(spared)))
        frames.free(FrameRun(run.frame, pages))

    frames.reclaim = reclaim
    assert frames.allocate(0) == []
    with pytest.raises(NoMemoryError):
        frames.allocate(5)
    assert asked == []
    frames.allocate(2, [FrameRun(3, 1)])
    assert asked == [(2, [FrameRun(3, 1)])]
    assert frames.used == 4


def test_closing_gives_the_memory_back_unless_somebody_looks_at_it(frames: Frames) -> None:
    (run,) = frames.allocate(1)
    with frames.view(run), pytest.raises(BufferError):
        frames.close()
    frames.close()
    with pytest.raises(ValueError, match="released"):
        frames.view(run)


def test_check_finds_two_owners_and_lost_frames(frames: Frames) -> None:
    (run,) = frames.allocate(2)
    with pytest.raises(AssertionError, match="two owners"):
        frames.check([run, run])
    with pytest.raises(AssertionError):
        frames.check([])


def test_at_most_four_mebibytes_of_free_frames_stay_in_memory(frames: Frames) -> None:
    (run,) = frames.allocate(3000, filled=True)
    frames.write(run, 0, b"x" * run.pages * PAGE_SIZE)
    frames.free(run)
    statistics = frames.statistics()
    assert (statistics.used, statistics.warm) == (0, 1024)
    runs = frames.allocate(3000)
    assert sum(run.pages for run in runs) == 3000
    assert not any(any(frames.view(run)) for run in runs)
    frames.check(runs)


def test_free_frames_give_their_memory_back_when_told_to(frames: Frames) -> None:
    (run,) = frames.allocate(40, filled=True)
    frames.write(run, 0, b"x" * run.pages * PAGE_SIZE)
    frames.free(FrameRun(2, 38))
    (next_one,) = frames.allocate(1)  # the rest of that range goes next
    frames.cool()
    assert frames.statistics().warm == 0
    frames.check([FrameRun(0, 2), next_one])
    assert bytes(frames.view(FrameRun(0, 2))) == b"x" * 2 * PAGE_SIZE
    runs = frames.allocate(39)
    assert not any(any(frames.view(run)) for run in runs)
    frames.check([FrameRun(0, 42)])
    frames.cool()
    frames.check([FrameRun(0, 42)])


def test_runs_that_are_freed_together_are_given_back_together(frames: Frames) -> None:
    (run,) = frames.allocate(9)
    frames.free(FrameRun(6, 3), FrameRun(0, 2), FrameRun(2, 3))
    assert frames.allocate(5) == [FrameRun(0, 5)]
    frames.check([FrameRun(0, 6)])
    assert run.pages == 9


def test_a_large_allocation_is_not_made_of_scattered_frames_while_others_lie_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames_module, "_RESERVE_BYTES", 64 * PAGE_SIZE)
    monkeypatch.setattr(frames_module, "_SMALLEST_RESERVE_BYTES", PAGE_SIZE)
    frames = Frames()
    (run,) = frames.allocate(40)
    frames.free(*(FrameRun(run.frame + page, 1) for page in range(0, 40, 2)))
    assert frames.allocate(20, filled=True) == [FrameRun(40, 20)]
    assert sum(run.pages for run in frames.allocate(16)) == 16  # nothing else is left
    with pytest.raises(NoMemoryError):
        frames.allocate(9)
    frames.allocate(8)
    frames.check([FrameRun(0, 64)])


def test_what_is_brought_in_beyond_one_page_is_what_the_next_ones_get(frames: Frames) -> None:
    assert [frames.allocate(1, filled=True) for _ in range(3)] == [[FrameRun(page, 1)] for page in range(3)]
    assert frames.statistics().warm == 29
    assert frames.allocate(29) == [FrameRun(3, 29)]


@pytest.mark.parametrize("advice", [23, 9999])
def test_frames_are_brought_in_if_the_kernel_can(monkeypatch: pytest.MonkeyPatch, advice: int) -> None:
    monkeypatch.setattr(frames_module, "_MADV_POPULATE_WRITE", advice)
    frames = Frames()
    for _ in range(2):
        (run,) = frames.allocate(100, filled=True)
        assert not any(frames.view(run))


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 9), st.booleans()), max_size=40))
def test_nobody_sees_what_another_one_wrote(changes: list[tuple[int, bool, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_module, "_RESERVE_BYTES", 128 * PAGE_SIZE)
        patch.setattr(frames_module, "_SMALLEST_RESERVE_BYTES", PAGE_SIZE)
        patch.setattr(frames_module, "_WARM_PAGES", 24)
        frames = Frames(100)
    owned: list[FrameRun] = []
    for pages, filled, freed, cools in changes:
        for run in frames.allocate(min(pages, 100 - frames.used), filled=filled):
            assert not any(frames.view(run))
            frames.write(run, 0, b"x" * run.pages * PAGE_SIZE)
            owned.append(run)
        gone = owned[::freed] if freed else []
        frames.free(*gone)
        owned = [run for run in owned if run not in gone]
        if cools:
            frames.cool()
        frames.check(owned)
    frames.close()
