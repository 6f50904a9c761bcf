"""When READs of one open file are followed by stores of what lies behind, and of how much."""

from __future__ import annotations

from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.sequences import Sequence

P = PAGE_SIZE


def test_the_second_read_in_sequence_is_followed_by_stores_that_grow() -> None:
    sequence = Sequence()
    assert sequence.read(0, P) is None
    assert sequence.read(P, 2 * P) == PageRange(2, 34)
    assert sequence.read(2 * P, 3 * P) is None  # it is faster than the stores
    assert sequence.read(34 * P, 35 * P) == PageRange(35, 99)
    assert sequence.read(60 * P, 61 * P) is None  # a page that was absent
    assert sequence.read(70 * P, 71 * P) == PageRange(99, 199)


def test_no_more_is_stored_in_one_go_than_two_mebibytes() -> None:
    sequence = Sequence()
    sequence.read(0, P)
    offset, stored = P, []
    for _ in range(10):
        ahead = sequence.read(offset, offset + P)
        assert ahead is not None
        stored.append(ahead.pages)
        offset = ahead.end * P
    assert stored == [32, 64, 128, 256, *[512] * 6]


def test_reads_at_random_are_followed_by_nothing() -> None:
    sequence = Sequence()
    assert [sequence.read(page * P, page * P + P) for page in (0, 7, 3, 9, 2, 500, 4)] == [None] * 7


def test_a_seek_begins_anew() -> None:
    sequence = Sequence()
    assert [sequence.read(page * P, page * P + P) for page in (0, 1, 1000, 1001)] == [
        None,
        PageRange(2, 34),
        None,
        PageRange(1002, 1034),
    ]


def test_large_reads_need_no_stores() -> None:
    sequence = Sequence()
    assert [sequence.read(offset, offset + 2**17) for offset in range(0, 2**20, 2**17)] == [None] * 8
