"""Spans: columns in blocks, against a list."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.core.pages import spans as spans_module
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import Run, RunMap
from vmofs.core.pages.spans import BLOCK, Span, Spans
from vmofs.core.pages.states import PageState
from vmofs.units import PageRange


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Cut blocks of more than four spans, so that small examples have several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans_module, "BLOCK", 2)
        yield


def filled(*wanted: Span) -> Spans:
    spans = Spans()
    for start, end, number in wanted:
        spans._replace(start, end, [(start, end, number)])
        spans.check()
    return spans


EVERY_FOURTH = [(4 * i, 4 * i + 2, i) for i in range(20)]


def test_nothing_is_found_where_there_is_nothing() -> None:
    spans = Spans()
    spans._replace(0, 9, [])
    assert (len(spans), bool(spans), list(spans._spans())) == (0, False, [])
    assert (spans._span_at(3), spans._spans_over(0, 9), spans.next_start(0, 9)) == (None, [], 9)


def test_what_is_emptied_can_be_filled_again() -> None:
    spans = filled((0, 2, 1), (4, 6, 2))
    spans._replace(0, 9, [])
    assert (len(spans), spans._span_at(1)) == (0, None)
    spans._replace(3, 5, [(3, 5, 7)])
    assert list(spans._spans()) == [(3, 5, 7)]


@pytest.mark.parametrize("seed", range(3))
def test_spans_are_found_whatever_order_they_came_in(seed: int) -> None:
    shuffled = random.Random(seed).sample(EVERY_FOURTH, len(EVERY_FOURTH))  # noqa: S311 - an order, no secret
    spans = filled(*shuffled)
    assert list(spans._spans()) == EVERY_FOURTH
    assert [spans._span_at(page) for page in range(80)] == [
        EVERY_FOURTH[page // 4] if page % 4 < 2 else None for page in range(80)
    ]
    assert [spans.next_start(page, 76) for page in range(80)] == [min(76, -(-page // 4) * 4) for page in range(80)]


def test_a_range_over_many_blocks_is_replaced_by_what_is_given() -> None:
    spans = filled(*EVERY_FOURTH)
    assert spans._spans_over(9, 61) == EVERY_FOURTH[2:16]
    assert spans._spans_over(10, 61) == EVERY_FOURTH[3:16]
    spans._replace(9, 61, [(8, 9, 5), (61, 62, 6)])
    spans.check()
    assert list(spans._spans()) == [*EVERY_FOURTH[:2], (8, 9, 5), (61, 62, 6), *EVERY_FOURTH[16:]]
    spans._replace(30, 40, [(30 + i, 31 + i, i) for i in range(10)])
    spans.check()
    assert len(spans) == 18


def test_the_first_span_of_a_block_may_begin_elsewhere_or_go() -> None:
    spans = filled(*EVERY_FOURTH)
    for start, end, number in EVERY_FOURTH:
        spans._replace(start, end, [(start + 1, end, number)])
        spans.check()
    for start, end, _ in EVERY_FOURTH:
        assert spans._span_at(start) is None
        spans._replace(start, end, [])
        spans.check()
    assert not spans


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9), st.booleans()), max_size=40), st.integers(0, 60))
def test_spans_in_blocks_are_what_a_set_of_pages_is(changes: list[tuple[int, int, bool]], window: int) -> None:
    ranges, pages = RangeSet(), set[int]()
    for start, length, adding in changes:
        change = PageRange(start, start + length)
        if adding:
            ranges.add(change)
            pages |= set(range(*change))
        else:
            ranges.discard(change)
            pages -= set(range(*change))
        ranges.check()
        seen = PageRange(window, window + 12)
        assert {page for part in ranges.over(seen) for page in range(*part)} == pages & set(range(*seen))
    assert {page for part in ranges for page in range(*part)} == pages


def test_intervals_melt_across_blocks() -> None:
    runs = RunMap()
    for start in (*range(0, 40, 2), *range(1, 40, 2)):
        runs.put(Run(start, start + 1, PageState.ZERO))
        runs.check()
    assert runs.whole_over(PageRange(0, 99)) == [Run(0, 40, PageState.ZERO)]


def test_a_span_costs_at_most_32_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "BLOCK", BLOCK)
    runs = RunMap()
    for page in random.Random(1).sample(range(20 * BLOCK), 20 * BLOCK):  # noqa: S311
        runs.put(Run(page, page + 1, PageState.CLEAN, 2**40 - 2 * page))
    columns = [column for block in runs._blocks for column in (block.starts, block.ends, block.values)]
    assert sum(map(sys.getsizeof, columns)) <= 32 * 20 * BLOCK


def test_empty_ones_share_what_they_are_made_of() -> None:
    one, other = Spans(), Spans()
    one._replace(0, 1, [(0, 1, 0)])
    assert list(other._spans()) == list(Spans()._spans()) == []
    runs = RunMap()
    runs.put(Run(0, 1, PageState.MARKER))
    assert RunMap().pages_in(PageState.MARKER) == 0
