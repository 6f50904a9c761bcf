"""What is read ahead: for readers who go on, as far as they have come, and never for those who jump."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.client.policy.streams import LONGEST_RUN, MOST_AHEAD, MOST_STREAMS, SHORTEST_RUN, Run, Streams
from vmofs.units import PAGE_SIZE

MIB = 1 << 20
SIZE = 256 * MIB


def ask(streams: Streams, start: int, length: int = PAGE_SIZE, cluster: int = PAGE_SIZE) -> list[Run]:
    """Ask for pages, of which a whole cluster is read."""
    read = start // cluster * cluster, -(-(start + length) // cluster) * cluster
    return streams.request(start, start + length, read)[1]


def test_the_first_request_reads_nothing_ahead() -> None:
    assert ask(Streams(SIZE), 0, 128 << 10) == []


def test_the_second_of_two_that_follow_each_other_does() -> None:
    streams = Streams(SIZE)
    ask(streams, 0)
    assert ask(streams, PAGE_SIZE) == [Run(2 * PAGE_SIZE, 2 * PAGE_SIZE + SHORTEST_RUN, 2 * PAGE_SIZE)]


def test_pages_below_each_other_count_from_the_third_on_and_are_read_downward() -> None:
    streams, top = Streams(SIZE), 64 * MIB
    ask(streams, top)
    assert ask(streams, top - PAGE_SIZE) == []
    end = top - 2 * PAGE_SIZE
    assert ask(streams, end) == [Run(end - SHORTEST_RUN, end, end - PAGE_SIZE)]


def test_a_request_that_comes_twice_is_no_direction() -> None:
    streams = Streams(SIZE)
    ask(streams, MIB)
    assert ask(streams, MIB) == []
    assert ask(streams, MIB - PAGE_SIZE) == []
    assert ask(streams, MIB - 2 * PAGE_SIZE) != []


def test_a_request_around_the_first_one_is_another_reader() -> None:
    streams = Streams(SIZE)
    first, _ = streams.request(8 << 10, 12 << 10, (8 << 10, 12 << 10))
    second, _ = streams.request(4 << 10, 16 << 10, (4 << 10, 16 << 10))
    assert second is not first


def test_a_copy_that_touches_first_last_and_then_goes_down_is_followed() -> None:
    streams, start, end = Streams(SIZE), 10 * MIB, 12 * MIB
    ask(streams, start)
    ask(streams, end - PAGE_SIZE)
    runs = [ask(streams, end - n * PAGE_SIZE) for n in (2, 3)]
    assert runs[0] == []
    assert runs[1][0].marker == end - 4 * PAGE_SIZE


def test_random_requests_read_nothing_ahead() -> None:
    streams, places = Streams(SIZE), random.Random(5).sample(range(0, SIZE, 256 << 10), 500)  # noqa: S311 - no secret
    assert [run for place in places for run in ask(streams, place, cluster=128 << 10)] == []


def test_a_reader_may_leave_out_a_little_and_come_a_little_late() -> None:
    streams = Streams(SIZE)
    ask(streams, 0)
    assert ask(streams, 3 * PAGE_SIZE)
    assert ask(streams, PAGE_SIZE) == []  # it goes on as before
    assert streams.request(8 << 20, (8 << 20) + PAGE_SIZE, (8 << 20, (8 << 20) + PAGE_SIZE))[0].follows == 0


def scan(streams: Streams, length: int, step: int = 128 << 10) -> tuple[list[Run], int]:
    """Read in sequence, as the kernel does: of each piece what is absent is asked for, run by run."""
    runs: list[Run] = []
    requests = 0
    present = bytearray(SIZE // PAGE_SIZE + 1)
    for piece in range(0, length, step):
        last = min(piece + step, length) // PAGE_SIZE
        while (first := present.find(0, piece // PAGE_SIZE)) < last:
            end = present.find(1, first, last)
            end = last if end < 0 else end
            present[first:end] = b"\1" * (end - first)
            requests += 1
            for run in ask(streams, first * PAGE_SIZE, (end - first) * PAGE_SIZE):
                runs.append(run)
                pages = slice(run.start // PAGE_SIZE, run.end // PAGE_SIZE)
                present[pages] = b"\1" * (pages.stop - pages.start)
                present[run.marker // PAGE_SIZE] = 0
    return runs, requests


def test_runs_and_window_grow_with_what_was_read_to_4_and_32_mib() -> None:
    runs, requests = scan(Streams(SIZE), 200 * MIB)
    lengths = [run.end - run.start for run in runs]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (SHORTEST_RUN, LONGEST_RUN)
    assert requests < 120  # of 1600 pieces
    assert max(run.end for run in runs) <= 200 * MIB + MOST_AHEAD + LONGEST_RUN


@given(st.integers(1, 64 * MIB // PAGE_SIZE), st.sampled_from([4 << 10, 16 << 10, 128 << 10]))
def test_no_more_is_read_in_vain_than_was_read_and_a_run(pages: int, step: int) -> None:
    length = pages * PAGE_SIZE
    runs, _ = scan(Streams(SIZE), length, step)
    beyond = sum(max(0, run.end - max(run.start, length)) for run in runs)
    assert beyond <= max(length, SHORTEST_RUN) + max(length // 4, SHORTEST_RUN)


def test_runs_join_and_end_with_the_object() -> None:
    for size in (3 * MIB, 3 * MIB + PAGE_SIZE):
        runs, _ = scan(Streams(size), size // (128 << 10) * (128 << 10))
        assert all(before.end == after.start for before, after in itertools.pairwise(runs))
        assert runs[-1].end == size


def test_falling_runs_end_with_the_start_of_the_object() -> None:
    streams = Streams(SIZE)
    runs = [run for at in range(MIB, -1, -PAGE_SIZE) for run in ask(streams, at)]
    assert min(run.start for run in runs) == 0


def test_several_readers_of_one_file_are_followed_each() -> None:
    streams = Streams(SIZE)
    starts = [n * 16 * MIB for n in range(8)]
    for start in starts:
        ask(streams, start)
    assert [ask(streams, start + PAGE_SIZE)[0].start for start in starts] == [start + 2 * PAGE_SIZE for start in starts]


def test_of_many_readers_the_one_that_was_quiet_longest_is_forgotten() -> None:
    streams = Streams(SIZE)
    for n in range(MOST_STREAMS + 1):
        ask(streams, n * MIB)
    assert ask(streams, PAGE_SIZE) == []
    assert ask(streams, 2 * MIB + PAGE_SIZE) != []


def test_a_reader_is_left_when_only_others_were_seen_for_long() -> None:
    streams = Streams(SIZE)
    stream, _ = streams.request(0, PAGE_SIZE, (0, PAGE_SIZE))
    assert not streams.is_left(stream)
    for n in range(1, 18):
        ask(streams, n * MIB)
    assert streams.is_left(stream)


@pytest.mark.parametrize("most", [0, PAGE_SIZE, 64 << 10, MIB])
def test_no_more_is_ahead_of_the_reader_than_is_permitted(most: int) -> None:
    streams = Streams(SIZE, most)
    for at in range(0, 4 * MIB, PAGE_SIZE):
        for run in ask(streams, at):
            assert run.end <= at + PAGE_SIZE + most
            assert run.end > run.start
