"""What is known of a source: how far it is, whether it is away, and where formats have their directories."""

from __future__ import annotations

import pytest

from vmofs.client.policy.breaker import FAILURES, Breaker, pause_before_retry
from vmofs.client.policy.round_trip import FIRST, LEAST, MOST, RoundTrip
from vmofs.client.policy.statistics import Statistics
from vmofs.client.policy.tails import ranges_by_content, ranges_by_name

KIB = 1024


def test_before_anything_was_read_a_cluster_is_of_the_first_size() -> None:
    assert RoundTrip().seconds is None
    assert RoundTrip().cluster == FIRST


@pytest.mark.parametrize(
    ("seconds", "cluster"),
    [(0.0, LEAST), (0.0001, LEAST), (0.00025, 16 * KIB), (0.001, 64 * KIB), (0.002, MOST), (0.02, MOST), (9.0, MOST)],
)
def test_the_farther_a_source_the_more_is_read_at_once(seconds: float, cluster: int) -> None:
    trip = RoundTrip()
    trip.learn(4 * KIB, seconds)
    assert trip.cluster == cluster


def test_one_slow_read_counts_for_nothing_and_many_do() -> None:
    trip = RoundTrip()
    trip.learn(4 * KIB, 0.0001)
    trip.learn(4 * KIB, 0.5)
    assert trip.cluster == LEAST
    for _ in range(16):
        trip.learn(4 * KIB, 0.5)
    assert trip.cluster == MOST


def test_long_reads_tell_nothing_of_the_way() -> None:
    trip = RoundTrip()
    trip.learn(4 << 20, 1.0)
    assert trip.seconds is None


def test_pauses_double_up_to_two_seconds_and_are_as_long_as_the_source_asks() -> None:
    assert [pause_before_retry(n) for n in (1, 2, 3, 6, 7, 100)] == [0.05, 0.1, 0.2, 1.6, 2.0, 2.0]
    assert pause_before_retry(1, 7.0) == 7.0
    assert pause_before_retry(7, 0.1) == 2.0


def opened() -> Breaker:
    """Return a breaker that opened at 100."""
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admits(100.0)
        breaker.failed(100.0, "refused")
    return breaker


def test_a_breaker_opens_after_three_failures_in_a_row_and_says_why() -> None:
    breaker = opened()
    assert breaker.is_open
    assert not breaker.admits(100.9)
    assert breaker.sentence == "refused"
    assert breaker.next_time() == 101.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(1.0, "")
        breaker.succeeded()
    assert not breaker.is_open


def test_after_a_second_one_read_decides() -> None:
    breaker = opened()
    assert breaker.admits(101.0)
    breaker.asked(101.0)
    assert not breaker.admits(101.0)
    breaker.succeeded()
    assert breaker.admits(101.0)
    breaker.asked(101.0)
    assert breaker.admits(101.0)


def test_it_stays_open_twice_as_long_each_time_up_to_ten_seconds() -> None:
    breaker, now, lengths = opened(), 100.0, []
    for _ in range(6):
        began = now
        now = breaker.next_time()
        lengths.append(now - began)
        breaker.asked(now)
        breaker.failed(now, "refused")
    assert lengths == [1, 2, 4, 8, 10, 10]


def test_failures_of_reads_that_began_before_do_not_prolong_it() -> None:
    breaker = opened()
    breaker.failed(100.5, "refused")
    assert breaker.next_time() == 101.0


def test_a_read_that_nobody_hears_of_again_does_not_keep_it_open_for_good() -> None:
    breaker = opened()
    breaker.asked(101.0)
    assert breaker.admits(111.0)


@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        ("a/b.zip", [(1_000_000 - 128 * KIB, 1_000_000)]),
        ("B.PARQUET", [(1_000_000 - 128 * KIB, 1_000_000)]),
        ("x.bam.bai", [(0, 1_000_000)]),
        ("x.txt", []),
        ("zip", []),
        (".zip", []),
    ],
)
def test_a_name_tells_where_the_directory_is(name: str, ranges: list[tuple[int, int]]) -> None:
    expected = [(start // 4096 * 4096, end) for start, end in ranges]
    assert ranges_by_name(name, 1_000_000) == expected


def test_the_first_bytes_tell_it_too() -> None:
    assert ranges_by_content(b"PK\x03\x04....", 1000) == [(0, 1000)]
    assert ranges_by_content(b"\0\0\0\x20ftypisom", 1 << 20) == [((1 << 20) - 128 * KIB, 1 << 20)]
    assert ranges_by_content(b"hello, world", 1 << 20) == []


def test_of_an_index_no_more_than_4_mib_is_fetched() -> None:
    assert ranges_by_name("x.crai", 1 << 30) == [(0, 4 << 20)]


def test_statistics_are_a_line_and_json() -> None:
    counts = Statistics(requests=2, last_error="no")
    assert str(counts) == "requests=2 last_error=no"
    assert '"requests": 2' in counts.json()
