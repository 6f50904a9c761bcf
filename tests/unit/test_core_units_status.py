"""Units and status codes."""

from __future__ import annotations

import pytest

from vmofs.status import Status, VmoError
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange, is_page_aligned, page_count

ZIRCON = {
    "OK": 0, "NOT_SUPPORTED": -2, "NO_MEMORY": -4, "INVALID_ARGS": -10, "BAD_HANDLE": -11, "WRONG_TYPE": -12,
    "OUT_OF_RANGE": -14, "BUFFER_TOO_SMALL": -15, "BAD_STATE": -20, "TIMED_OUT": -21, "NOT_FOUND": -25,
    "ALREADY_EXISTS": -26, "UNAVAILABLE": -28, "ACCESS_DENIED": -30, "IO": -40, "IO_DATA_INTEGRITY": -42,
    "NO_SPACE": -54,
}  # fmt: skip


def test_the_numbers_are_zircons() -> None:
    assert {status.name: status.value for status in Status} == ZIRCON


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_status_has_an_error_of_its_own(status: Status) -> None:
    error = VmoError.of(status, "what was wrong")
    assert error.status is status
    assert str(error) == "what was wrong"
    assert type(error).__name__ == "".join(word.title() for word in status.name.split("_")) + "Error"
    assert status.zx_name == f"ZX_ERR_{status.name}"


def test_ok_is_no_error() -> None:
    assert Status.OK.zx_name == "ZX_OK"
    with pytest.raises(KeyError):
        VmoError.of(Status.OK, "")


def test_sizes_round_up_and_bytes_round_outward_to_pages() -> None:
    assert [page_count(size) for size in (0, 1, PAGE_SIZE, PAGE_SIZE + 1)] == [0, 1, 1, 2]
    assert PageRange.of_bytes(PAGE_SIZE - 1, 2) == PageRange(0, 2)
    assert PageRange.of_bytes(PAGE_SIZE, PAGE_SIZE) == PageRange(1, 2)
    assert PageRange.of_bytes(PAGE_SIZE + 1, 0) == PageRange(1, 1)
    assert is_page_aligned(0)
    assert not is_page_aligned(PAGE_SIZE + 1)


def test_the_largest_vmo_is_a_whole_number_of_pages_that_off_t_can_hold() -> None:
    assert is_page_aligned(MAX_VMO_BYTES)
    assert 2**63 - 1 - MAX_VMO_BYTES < PAGE_SIZE
    assert UINT64_MAX == 0xFFFF_FFFF_FFFF_FFFF


def test_a_page_range_is_half_open() -> None:
    pages = PageRange(2, 5)
    assert (pages.pages, pages.offset, pages.length) == (3, 2 * PAGE_SIZE, 3 * PAGE_SIZE)
    assert [page in pages for page in (1, 2, 4, 5)] == [False, True, True, False]
    assert "2" not in pages  # type: ignore[comparison-overlap]
    assert str(pages) == "[2,5)"
    assert bool(pages)
    assert not PageRange(5, 5)
    assert PageRange(5, 3).pages == 0


@pytest.mark.parametrize(
    ("other", "common"), [((0, 3), (2, 3)), ((3, 9), (3, 5)), ((0, 9), (2, 5)), ((5, 9), (5, 5)), ((0, 1), (2, 2))]
)
def test_the_common_pages_of_two_ranges(other: tuple[int, int], common: tuple[int, int]) -> None:
    assert PageRange(2, 5) & PageRange(*other) == common
    assert (PageRange(*other) & PageRange(2, 5)) == common
