"""The READs of a file that wait for a pager."""

from __future__ import annotations

from vmofs.units import PageRange
from vmofs_mount.waiting_reads import WaitingReads


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
