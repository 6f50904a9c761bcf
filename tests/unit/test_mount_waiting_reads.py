"""The READs of a file that wait for a pager."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmofs.units import PageRange
from vmofs_mount.cache.waiting_reads import WaitingReads


def test_the_reads_over_a_range_are_found_wherever_they_begin() -> None:
    reads = WaitingReads()
    for number, pages in enumerate([(0, 4), (4, 5), (8, 12), (8, 9)]):
        reads.add(number, PageRange(*pages))
    assert list(reads.over(PageRange(3, 5))) == [PageRange(0, 4), PageRange(4, 5)]
    assert list(reads.over(PageRange(5, 8))) == []
    assert list(reads.over(PageRange(10, 20))) == [PageRange(8, 12)]
    reads.remove(2)
    assert list(reads.over(PageRange(8, 20))) == [PageRange(8, 9)]
    assert len(reads) == 3


def test_a_read_of_many_pages_is_found_once_also_from_a_range_far_larger_than_the_file() -> None:
    reads = WaitingReads()
    reads.add(1, PageRange(60, 316))
    reads.add(2, PageRange(2**40, 2**40 + 1))
    assert reads.over(PageRange(0, 400)) == [PageRange(60, 316)]
    assert reads.over(PageRange(0, 2**50)) == [PageRange(60, 316), PageRange(2**40, 2**40 + 1)]
    assert reads.over(PageRange(100, 2**40)) == [PageRange(60, 316)]


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 256))),
    st.sets(st.integers(0, 9)),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
)
def test_reads_are_found_and_marked_as_if_all_were_looked_through(
    added: list[tuple[int, int]], removed: set[int], written: tuple[int, int]
) -> None:
    reads, naive = WaitingReads(), dict[int, PageRange]()
    for number, (start, count) in enumerate(added):
        naive[number] = PageRange(start, start + count)
        reads.add(number, naive[number])
    for number in removed & naive.keys():
        del naive[number]
        assert not reads.remove(number)
    pages = PageRange(written[0], sum(written))
    met = {number: read for number, read in naive.items() if read & pages}
    assert sorted(reads.over(pages)) == sorted(met.values())
    assert sorted(reads.written(pages)) == sorted(read & pages for read in met.values())
    assert len(reads) == len(naive)
    assert {number for number in naive if reads.remove(number)} == set(met)
    assert reads.over(PageRange(0, 2**50)) == []
