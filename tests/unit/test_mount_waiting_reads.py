"""The READs that wait for a pager."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.world import World
from tests.support.reads import waiting_read
from vmofs.units import PageRange
from vmofs_mount.cache.waiting_reads import WaitingRead, WaitingReads
from vmofs_mount.tree.inodes import VmoFile

EVERYTHING = PageRange(0, 2**50)


def opened_file() -> VmoFile:
    """Return a file that is open."""
    world = World()
    file = VmoFile(0o644, 0, 0, world.vmo(1), world.pager)
    file.open_count = 1
    return file


def added(reads: WaitingReads, file: VmoFile, *pages: tuple[int, int]) -> list[WaitingRead]:
    """Let READs wait."""
    made = [waiting_read(PageRange(*range_), file) for range_ in pages]
    for read in made:
        reads.add(read)
    reads.check()
    return made


def test_the_reads_over_a_range_are_found_wherever_they_begin() -> None:
    reads, file = WaitingReads(), opened_file()
    _, _, third, _ = added(reads, file, (0, 4), (4, 5), (8, 12), (8, 9))
    assert list(reads.over(file, PageRange(3, 5))) == [PageRange(0, 4), PageRange(4, 5)]
    assert list(reads.over(file, PageRange(5, 8))) == []
    assert list(reads.over(file, PageRange(10, 20))) == [PageRange(8, 12)]
    reads.remove(third)
    assert list(reads.over(file, PageRange(8, 20))) == [PageRange(8, 9)]
    assert len(reads) == 3


def test_a_read_of_many_pages_is_found_once_also_from_a_range_far_larger_than_the_file() -> None:
    reads, file = WaitingReads(), opened_file()
    added(reads, file, (60, 316), (2**40, 2**40 + 1))
    assert reads.over(file, PageRange(0, 400)) == [PageRange(60, 316)]
    assert reads.over(file, EVERYTHING) == [PageRange(60, 316), PageRange(2**40, 2**40 + 1)]
    assert reads.over(file, PageRange(100, 2**40)) == [PageRange(60, 316)]
    assert len(reads.of(file)) == 2


def test_reads_of_other_files_and_with_o_direct_have_no_pages_locked_here() -> None:
    reads, file, other = WaitingReads(), opened_file(), opened_file()
    (read,) = added(reads, file, (0, 4))
    direct = waiting_read(PageRange(0, 4), other, has_page_cache=False)
    reads.add(direct)
    assert (reads.waits(file), reads.waits(other), reads.count_of(7)) == (True, False, 2)
    assert (reads.over(other, EVERYTHING), reads.of(other)) == ([], [])
    assert reads.find(direct.unique) is direct
    for gone in (read, direct):
        reads.remove(gone)
    assert (reads.waits(file), reads.count_of(7), reads.find(direct.unique)) == (False, 0, None)
    reads.check()


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 256))),
    st.sets(st.integers(0, 9)),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
)
def test_reads_are_found_and_marked_as_if_all_were_looked_through(
    ranges: list[tuple[int, int]], removed: set[int], written: tuple[int, int]
) -> None:
    reads, file = WaitingReads(), opened_file()
    naive = dict(enumerate(added(reads, file, *((start, start + count) for start, count in ranges))))
    for number in removed & naive.keys():
        reads.remove(naive.pop(number))
    reads.check()
    pages = PageRange(written[0], sum(written))
    met = [read for read in naive.values() if read.pages & pages]
    assert sorted(reads.over(file, pages)) == sorted(read.pages for read in met)
    assert sorted(reads.written(file, pages)) == sorted(read.pages & pages for read in met)
    assert len(reads) == len(reads.of(file)) == len(naive)
    assert [read for read in naive.values() if read.is_outdated] == met
    for read in naive.values():
        reads.remove(read)
    assert reads.over(file, EVERYTHING) == []
