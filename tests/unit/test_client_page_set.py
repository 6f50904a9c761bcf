"""A set of pages is what a set of numbers is, whatever was added and removed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.client.policy import page_set
from vmofs.client.policy.page_set import PageSet
from vmofs.units import PAGE_SIZE

PAGES = 3 * 4096
"""Three chunks, so that ranges cross their borders."""

edges = st.one_of(st.integers(0, PAGES), st.integers(4090, 4100), st.sampled_from([0, 4096, 8192, PAGES]))
ranges = st.tuples(edges, edges).map(lambda pair: (min(pair), max(pair)))


def gaps_of(have: set[int], start: int, end: int) -> list[tuple[int, int]]:
    """Return the longest runs of pages that are not there, naively."""
    gaps: list[tuple[int, int]] = []
    for page in range(start, end):
        if page not in have:
            if gaps and gaps[-1][1] == page:
                gaps[-1] = gaps[-1][0], page + 1
            else:
                gaps.append((page, page + 1))
    return [(first * PAGE_SIZE, last * PAGE_SIZE) for first, last in gaps]


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=8), ranges)
def test_it_holds_what_was_added_and_not_removed(
    changes: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    pages, have = PageSet(), set[int]()
    for is_added, (start, end) in changes:
        if is_added:
            pages.add(start * PAGE_SIZE, end * PAGE_SIZE)
            have.update(range(start, end))
        else:
            pages.discard(start * PAGE_SIZE, end * PAGE_SIZE)
            have.difference_update(range(start, end))
    first, last = asked
    assert list(pages.gaps(first * PAGE_SIZE, last * PAGE_SIZE)) == gaps_of(have, first, last)
    assert pages.meets(first * PAGE_SIZE, last * PAGE_SIZE) == any(page in have for page in range(first, last))


def test_a_part_of_a_page_counts_as_the_page() -> None:
    pages = PageSet()
    pages.add(100, PAGE_SIZE + 1)
    assert list(pages.gaps(0, 3 * PAGE_SIZE)) == [(2 * PAGE_SIZE, 3 * PAGE_SIZE)]


def test_it_forgets_what_was_added_first_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_set, "MOST_CHUNKS", 2)
    pages = PageSet()
    for chunk in range(3):
        pages.add(chunk * 4096 * PAGE_SIZE, chunk * 4096 * PAGE_SIZE + PAGE_SIZE)
    assert not pages.meets(0, PAGE_SIZE)
    assert pages.meets(4096 * PAGE_SIZE, 4097 * PAGE_SIZE)
    assert pages.meets(2 * 4096 * PAGE_SIZE, (2 * 4096 + 1) * PAGE_SIZE)
