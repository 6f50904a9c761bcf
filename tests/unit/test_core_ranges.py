"""RangeSet against a set of pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmofs.core.pages.ranges import RangeSet
from vmofs.units import PageRange

RANGES = st.builds(lambda start, pages: PageRange(start, start + pages), st.integers(0, 20), st.integers(0, 6))
CHANGES = st.lists(st.tuples(st.booleans(), RANGES), max_size=12)


@given(CHANGES, RANGES)
def test_a_range_set_is_a_set_of_pages(changes: list[tuple[bool, PageRange]], window: PageRange) -> None:
    ranges, pages = RangeSet(), set[int]()
    for adding, change in changes:
        if adding:
            ranges.add(change)
            pages |= set(range(*change))
        else:
            ranges.discard(change)
            pages -= set(range(*change))
        ranges.check()
    assert {page for part in ranges for page in range(*part)} == pages
    assert ranges.pages == len(pages)
    assert {page for part in ranges.over(window) for page in range(*part)} == pages & set(range(*window))
    assert {page for part in ranges.missing(window) for page in range(*part)} == set(range(*window)) - pages


def test_neighbours_melt() -> None:
    ranges = RangeSet()
    for start, end in ((0, 2), (4, 6), (2, 4)):
        ranges.add(PageRange(start, end))
    assert (list(ranges), len(ranges)) == ([PageRange(0, 6)], 1)


def test_missing_parts_are_ascending_and_cut() -> None:
    ranges = RangeSet()
    ranges.add(PageRange(2, 4))
    ranges.add(PageRange(6, 9))
    assert ranges.missing(PageRange(0, 8)) == [PageRange(0, 2), PageRange(4, 6)]
    assert ranges.missing(PageRange(3, 12)) == [PageRange(4, 6), PageRange(9, 12)]
    assert ranges.over(PageRange(3, 7)) == [PageRange(3, 4), PageRange(6, 7)]
