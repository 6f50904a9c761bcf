"""Results: what the reader of a command file gets, and what a client makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError, NotFoundError, Status, VmoError
from vmofs.units import PAGE_SIZE, UINT64_MAX, PageRange
from vmofs.vocabulary import DirtyRange
from vmofs.wire.names import printable
from vmofs.wire.results import (
    Result,
    add_held,
    format_dirty_ranges,
    format_error,
    format_result,
    format_vmo_stats,
    parse_dirty_ranges,
    parse_result,
    parse_vmo_stats,
)

PAGES = st.integers(0, UINT64_MAX // PAGE_SIZE)
RANGES = st.tuples(PAGES, PAGES).map(lambda pages: PageRange(min(pages), max(pages)))


@pytest.mark.parametrize(
    ("status", "sentence", "text"),
    [
        (Status.OK, "", "ZX_OK\n"),
        (Status.OK, "modified=1", "ZX_OK modified=1\n"),
        (Status.IO, "", "ZX_ERR_IO\n"),
        (Status.OUT_OF_RANGE, "page 7 of 4", "ZX_ERR_OUT_OF_RANGE: page 7 of 4\n"),
        (Status.BAD_HANDLE, "no vmo/a\nb\r\0", "ZX_ERR_BAD_HANDLE: no vmo/a\\012b\\015\\000\n"),
    ],
)
def test_a_result_is_one_line(status: Status, sentence: str, text: str) -> None:
    assert format_result(status, sentence) == text


@pytest.mark.parametrize(
    ("held", "answer", "text"),
    [
        (0, "ZX_OK\n", "ZX_OK\n"),
        (0, "ZX_OK pages=3\n", "ZX_OK pages=3\n"),
        (2, "ZX_OK\n", "ZX_OK held=2\n"),
        (2, "ZX_OK pages=3\n", "ZX_OK pages=3 held=2\n"),
        (2, "ZX_OK modified=1\n", "ZX_OK modified=1\n"),
        (2, "ZX_OK 0\n", "ZX_OK 0\n"),
    ],
)
def test_what_the_kernel_still_has_is_said_at_the_end(held: int, answer: str, text: str) -> None:
    assert add_held(answer, held) == text


@given(st.sampled_from(Status), st.text())
def test_a_client_reads_the_status_and_the_printable_sentence(status: Status, sentence: str) -> None:
    text = format_result(status, sentence)
    assert text.count("\n") == 1
    assert parse_result(text) == Result(status, printable(sentence))


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_an_error_comes_out_of_the_mount_as_it_went_in(status: Status) -> None:
    result = parse_result(format_error(VmoError.of(status, "offset 12 of 4096")))
    with pytest.raises(VmoError, match=r"^offset 12 of 4096$") as caught:
        result.raise_for_status()
    assert caught.value.status is status


def test_a_good_result_raises_nothing() -> None:
    parse_result("ZX_OK\n").raise_for_status()


def test_a_result_without_its_newline_is_read_too() -> None:
    assert parse_result("ZX_ERR_IO: gone") == Result(Status.IO, "gone")


@pytest.mark.parametrize("text", ["", "\n", "OK\n", "ZX_ERR_NONSENSE: x\n", "zx_ok\n"])
def test_what_has_no_status_is_no_result(text: str) -> None:
    with pytest.raises(InvalidArgsError, match=r"^result '.*' does not begin with a status$"):
        parse_result(text)


def test_dirty_ranges_are_a_count_and_a_line_each() -> None:
    ranges = [DirtyRange(PageRange(0, 1), is_zero=False), DirtyRange(PageRange(2, 5), is_zero=True)]
    assert format_dirty_ranges([]) == "ZX_OK 0\n"
    assert format_dirty_ranges(ranges) == "ZX_OK 2\n0 4096 dirty\n8192 12288 zero\n"


@given(st.lists(st.builds(DirtyRange, RANGES, st.booleans())))
def test_a_client_reads_the_dirty_ranges_that_were_written(ranges: list[DirtyRange]) -> None:
    assert parse_dirty_ranges(parse_result(format_dirty_ranges(ranges))) == ranges


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ZX_OK\n", "number of ranges '' is not a number"),
        ("ZX_OK 2\n0 4096 dirty\n", "answer announces 2 ranges and has 1"),
        ("ZX_OK 0\n0 4096 dirty\n", "answer announces 0 ranges and has 1"),
        ("ZX_OK 1\n0 4096\n", "range '0 4096' is not OFFSET LENGTH dirty or OFFSET LENGTH zero"),
        ("ZX_OK 1\n0 4096 clean\n", "range '0 4096 clean' is not OFFSET LENGTH dirty or OFFSET LENGTH zero"),
        ("ZX_OK 1\nx 4096 dirty\n", "OFFSET 'x' is not a number"),
        ("ZX_OK 1\n0 -1 zero\n", "LENGTH '-1' is negative"),
        ("ZX_OK 1\n1 4096 zero\n", "range '1 4096 zero' does not consist of pages of 4096 bytes"),
        ("ZX_OK 1\n0 4097 zero\n", "range '0 4097 zero' does not consist of pages of 4096 bytes"),
    ],
)
def test_a_malformed_answer_of_ranges_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        parse_dirty_ranges(parse_result(text))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("modified", [False, True])
def test_stats_say_whether_the_vmo_was_modified(modified: bool) -> None:
    text = format_vmo_stats(modified=modified)
    assert text == f"ZX_OK modified={int(modified)}\n"
    assert parse_vmo_stats(parse_result(text)) is modified


def test_malformed_stats_are_refused() -> None:
    with pytest.raises(InvalidArgsError, match=r"^answer 'modified=2' is neither modified=0 nor modified=1$"):
        parse_vmo_stats(Result(Status.OK, "modified=2"))


def test_a_query_that_failed_raises_its_own_error() -> None:
    failed = Result(Status.NOT_FOUND, "page 3 is absent")
    with pytest.raises(NotFoundError, match="page 3"):
        parse_dirty_ranges(failed)
    with pytest.raises(NotFoundError, match="page 3"):
        parse_vmo_stats(failed)
