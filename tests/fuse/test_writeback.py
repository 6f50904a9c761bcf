"""Finding out what is dirty, and writing it back. Zircon: zircon-pager 2.5, 2.6, 2.7, 4.4 to 4.7."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.support.pager_client import Background, PagerClient, Vmo
from tests.support.writing import (
    KEY,
    OTHER,
    clean,
    command_file,
    dirty,
    mapped,
    modified,
    op,
    opened,
    page_bytes,
    query,
    refused_op,
    start_read,
    start_write,
    supply,
    take,
)
from vmofs.units import PAGE_SIZE
from vmofs_mount.cache.page_cache import DROP_SECONDS


def written(pager: PagerClient, pages: int = 4, options: str = "") -> Vmo:
    """Make a VMO all of whose pages were written, so that they are dirty."""
    vmo = pager.create(size=pages * PAGE_SIZE, options=options)
    supply(pager, vmo, 0, pages)
    if "trap_dirty" in options:
        op(pager, "DIRTY", vmo, 0, pages)
    with opened(vmo.path) as fd:
        os.pwrite(fd, page_bytes(0, pages), 0)
    return vmo


def grown(pager: PagerClient, pages: int = 10) -> Vmo:
    """Make a VMO of one absent page and a zero interval behind it."""
    vmo = pager.create(size=PAGE_SIZE, options="resizable")
    os.truncate(vmo.path, pages * PAGE_SIZE)
    return vmo


def write_page(vmo: Vmo, page: int) -> None:
    with opened(vmo.path) as fd:
        os.pwrite(fd, page_bytes(page), page * PAGE_SIZE)


# Pages


def test_a_page_is_reported_until_end_and_readable_all_the_time(pager: PagerClient) -> None:
    vmo = written(pager)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        op(pager, "WRITEBACK_BEGIN", vmo, 1, 2)
        assert dirty(pager, vmo) == "{0,4}"
        assert mapping.load(0, 4 * PAGE_SIZE) == os.pread(fd, 4 * PAGE_SIZE, 0) == page_bytes(0, 4)
        op(pager, "WRITEBACK_END", vmo, 1, 2)
        assert dirty(pager, vmo) == "{0,1}{3,1}"
        assert mapping.load(0, 4 * PAGE_SIZE) == os.pread(fd, 4 * PAGE_SIZE, 0) == page_bytes(0, 4)
    assert pager.requests.is_quiet()


def test_a_pager_does_not_wait_in_end_for_a_store_that_waits_for_it(pager: PagerClient) -> None:
    """The kernel has the page locked; what the pager waited for would add up to its own deadline."""
    vmo = pager.create(size=0, options="resizable trap_dirty")
    with opened(vmo.path) as fd, mapped(fd, 8) as mapping:
        os.ftruncate(fd, 8 * PAGE_SIZE)
        mapping.load(0, 8 * PAGE_SIZE)
        op(pager, "WRITEBACK_BEGIN", vmo, 0, 8, "is_zero")
        mapping.store(0, page_bytes(0))
        msync = Background(mapping.msync)
        assert take(pager) == "DIRTY(0,1)"
        began = time.monotonic()
        for page in range(4):
            op(pager, "WRITEBACK_END", vmo, page)
        assert time.monotonic() - began < DROP_SECONDS
        assert not msync.done
        supply(pager, vmo, 0, 8)
        op(pager, "DIRTY", vmo, 0, 8)
        msync.result()
        assert mapping.load(0) == os.pread(fd, PAGE_SIZE, 0) == page_bytes(0)


@pytest.mark.parametrize("way", ["write", "mapping"])
def test_what_is_written_between_begin_and_end_stays_dirty(pager: PagerClient, way: str) -> None:
    vmo = written(pager)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.load(0, 4 * PAGE_SIZE)
        op(pager, "WRITEBACK_BEGIN", vmo, 0, 4)
        if way == "write":
            os.pwrite(fd, b"again", PAGE_SIZE)
        else:
            mapping.store_and_sync(PAGE_SIZE, b"again")
        op(pager, "WRITEBACK_END", vmo, 0, 4)
        assert dirty(pager, vmo) == "{1,1}"
        assert os.pread(fd, 5, PAGE_SIZE) == b"again"


@pytest.mark.parametrize("way", ["write", "mapping"])
@pytest.mark.parametrize("order", ["DIRTY END", "END DIRTY", "FAIL END"])
def test_a_writer_who_asks_between_begin_and_end(pager: PagerClient, way: str, order: str) -> None:
    vmo = written(pager, options="trap_dirty")
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.load(PAGE_SIZE)
        op(pager, "WRITEBACK_BEGIN", vmo, 0, 4)
        if way == "write":
            writer: Background[object] = Background(lambda: os.pwrite(fd, b"again", PAGE_SIZE))
        else:
            writer = Background(lambda: mapping.store_and_sync(PAGE_SIZE, b"again"))
        assert take(pager) == "DIRTY(1,1)"
        if order == "END DIRTY":
            op(pager, "WRITEBACK_END", vmo, 0, 4)
            assert dirty(pager, vmo) == ""
            assert not writer.done  # still, with the same request
            assert pager.requests.is_quiet()
        if order == "FAIL END":
            pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
            assert writer.errno() == errno.EIO
        else:
            op(pager, "DIRTY", vmo, 1)
            writer.result()
        if order != "END DIRTY":
            op(pager, "WRITEBACK_END", vmo, 0, 4)
        assert dirty(pager, vmo) == ("" if order == "FAIL END" else "{1,1}")


@pytest.mark.parametrize(
    "calls",
    [
        "B0,4 E0,1 E1,3",
        "B2,2 B0,2 E0,4",
        "B0,3 B1,3 E0,4",
        "B0,4 E3,1 E0,3",
        "B0,2 E0,2 B2,2 E2,2",
        "B0,4 B0,4 E0,4 E0,4",
    ],
)
def test_any_split_and_order_of_begin_and_end_cleans_pages(pager: PagerClient, calls: str) -> None:
    vmo = written(pager)
    for call in calls.split():
        page, pages = map(int, call[1:].split(","))
        op(pager, "WRITEBACK_BEGIN" if call[0] == "B" else "WRITEBACK_END", vmo, page, pages)
    assert dirty(pager, vmo) == ""


def test_end_without_begin_is_ok_and_does_nothing(pager: PagerClient) -> None:
    vmo = written(pager)
    op(pager, "WRITEBACK_END", vmo, 0, 4)
    assert dirty(pager, vmo) == "{0,4}"


def test_begin_and_end_check_data_and_range_and_need_no_pager(pager: PagerClient) -> None:
    vmo = written(pager)
    assert refused_op(pager, "WRITEBACK_BEGIN", vmo, 0, 4, "2") == errno.EINVAL
    assert refused_op(pager, "WRITEBACK_END", vmo, 0, 4, "is_zero") == errno.EINVAL
    assert refused_op(pager, "WRITEBACK_BEGIN", vmo, 3, 2) == errno.ERANGE
    op(pager, "WRITEBACK_BEGIN", vmo, 0, 4)
    assert refused_op(pager, "WRITEBACK_END", vmo, 0, 5) == errno.ERANGE
    assert dirty(pager, vmo) == "{0,4}"
    op(pager, "WRITEBACK_END", vmo, 4, 0)
    pager.command("detach_vmo", vmo.name)
    op(pager, "WRITEBACK_END", vmo, 0, 4)
    assert dirty(pager, vmo) == ""
    assert vmo.path.read_bytes() == page_bytes(0, 4)  # written back pages stay


def test_neither_begin_nor_end_touches_modified(pager: PagerClient) -> None:
    vmo = written(pager)
    clean(pager, vmo, 0, 4)
    assert modified(pager, vmo, reset=True)
    write_page(vmo, 0)
    assert modified(pager, vmo, reset=True)
    clean(pager, vmo, 0, 4)
    assert not modified(pager, vmo)


# Zero intervals


def test_zeros_that_were_written_back_are_absent_and_may_come_back_as_something_else(pager: PagerClient) -> None:
    vmo = grown(pager, 4)
    clean(pager, vmo, 1, 2)
    assert dirty(pager, vmo) == "{3,1,Z}"
    with opened(vmo.path) as fd:
        assert os.pread(fd, PAGE_SIZE, 3 * PAGE_SIZE) == bytes(PAGE_SIZE)
        reader = start_read(fd, 2)
        assert take(pager) == "READ(2,1)"
        supply(pager, vmo, 2, key=OTHER)
        assert reader.result() == page_bytes(2, key=OTHER)


def test_a_zero_interval_is_cleaned_from_its_start_only(pager: PagerClient) -> None:
    vmo = grown(pager)
    clean(pager, vmo, 1, 4)
    assert dirty(pager, vmo) == "{5,5,Z}"
    op(pager, "WRITEBACK_BEGIN", vmo, 5, 2)
    op(pager, "WRITEBACK_BEGIN", vmo, 7, 3)  # inside: does nothing
    op(pager, "WRITEBACK_END", vmo, 5, 2)
    op(pager, "WRITEBACK_END", vmo, 7, 3)
    assert dirty(pager, vmo) == "{7,3,Z}"
    clean(pager, vmo, 7, 3)
    assert dirty(pager, vmo) == ""


def test_ends_out_of_order_leave_a_part_of_an_interval_dirty(pager: PagerClient) -> None:
    vmo = grown(pager, 5)
    op(pager, "WRITEBACK_BEGIN", vmo, 1, 4)
    op(pager, "WRITEBACK_END", vmo, 3, 2)
    op(pager, "WRITEBACK_END", vmo, 1, 2)
    assert dirty(pager, vmo) == "{3,2,Z}"
    op(pager, "WRITEBACK_END", vmo, 3, 2)  # the awaiting length has moved here
    assert dirty(pager, vmo) == ""


def test_is_zero_leaves_a_page_alone_that_was_written_after_the_query(pager: PagerClient) -> None:
    vmo = grown(pager, 4)
    assert dirty(pager, vmo) == "{1,3,Z}"
    write_page(vmo, 2)
    op(pager, "WRITEBACK_BEGIN", vmo, 1, 3, "is_zero")
    op(pager, "WRITEBACK_END", vmo, 1, 3)
    assert dirty(pager, vmo) == "{2,1}"
    with opened(vmo.path) as fd:
        assert os.pread(fd, PAGE_SIZE, 2 * PAGE_SIZE) == page_bytes(2)


def test_a_write_into_zeros_that_await_being_cleaned_survives(pager: PagerClient) -> None:
    vmo = grown(pager, 5)
    op(pager, "WRITEBACK_BEGIN", vmo, 1, 4, "is_zero")
    write_page(vmo, 2)
    op(pager, "WRITEBACK_END", vmo, 1, 4)
    assert dirty(pager, vmo) == "{2,1}"
    with opened(vmo.path) as fd:
        assert os.pread(fd, PAGE_SIZE, 2 * PAGE_SIZE) == page_bytes(2)


def test_zero_that_extends_an_interval_to_the_left_takes_the_beginning_back(pager: PagerClient) -> None:
    vmo = grown(pager, 4)
    supply(pager, vmo)
    op(pager, "WRITEBACK_BEGIN", vmo, 1, 3)
    with command_file(pager, "vmo_op_range") as vmo_op:
        assert vmo_op.say(f"zero {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"
    op(pager, "WRITEBACK_END", vmo, 0, 4)
    assert dirty(pager, vmo) == "{0,4,Z}"


# Queries


def test_records_are_cut_to_the_window_which_is_rounded_outward(pager: PagerClient) -> None:
    vmo = written(pager, 4, "resizable")
    os.truncate(vmo.path, 8 * PAGE_SIZE)
    assert query(pager, vmo, 0, 8 * PAGE_SIZE) == "{0,4}{4,4,Z}"
    assert query(pager, vmo, PAGE_SIZE + 1, 1) == "{1,1}"
    assert query(pager, vmo, 3 * PAGE_SIZE + 5, PAGE_SIZE) == "{3,1}{4,1,Z}"
    assert query(pager, vmo, 8 * PAGE_SIZE, 0) == ""


def test_clean_pages_markers_and_gaps_end_a_record(pager: PagerClient) -> None:
    vmo = written(pager, 8, "resizable")
    clean(pager, vmo, 2)
    clean(pager, vmo, 5)
    pager.command("evict", f"{vmo.name} {5 * PAGE_SIZE} {PAGE_SIZE}")
    op(pager, "WRITEBACK_BEGIN", vmo, 3)  # reported like dirty
    assert dirty(pager, vmo) == "{0,2}{3,2}{6,2}"


def test_queries_check_in_the_order_of_the_contract(pager: PagerClient) -> None:
    vmo = written(pager)
    stranger = PagerClient(pager.mount)
    try:
        foreign = stranger.create()
        for line, expected in {
            f"{foreign.name} 0 {99 * PAGE_SIZE}": errno.EINVAL,
            f"{vmo.name} 0 {5 * PAGE_SIZE}": errno.ERANGE,
            f"{vmo.name} {PAGE_SIZE} 0xffffffffffffffff": errno.ERANGE,
            f"vmo/{pager.name}/none 0 1": errno.ENOENT,
        }.items():
            refused = pager.refused("query_dirty_ranges", line)
            assert refused.errno == expected, line
            assert refused.result.partition(": ")[2]
        assert pager.refused("query_vmo_stats", foreign.name).errno == errno.EINVAL
        assert pager.refused("query_vmo_stats", f"{vmo.name} again").errno == errno.EINVAL
        assert modified(pager, vmo)
    finally:
        stranger.close()
    pager.command("detach_vmo", vmo.name)
    assert dirty(pager, vmo) == "{0,4}"
    assert modified(pager, vmo)


def test_an_answer_of_many_records_is_read_in_pieces(pager: PagerClient) -> None:
    pages = 4000
    vmo = pager.create(size=pages * PAGE_SIZE)
    supply(pager, vmo, 0, pages)
    with opened(vmo.path) as fd:
        for page in range(0, pages, 2):
            os.pwrite(fd, b"x", page * PAGE_SIZE)
    text = (pager.control / "query_dirty_ranges").open("r+b", buffering=0)
    with text:
        text.write(f"{vmo.name} 0 {pages * PAGE_SIZE}\n".encode())
        answer = b"".join(iter(lambda: text.read(1000) or b"", b""))
    lines = answer.decode().splitlines()
    assert lines[0] == f"ZX_OK {pages // 2}"
    assert lines[1:] == [f"{page * PAGE_SIZE} {PAGE_SIZE} dirty" for page in range(0, pages, 2)]


# All of it


def test_what_is_dirty_can_be_read_by_a_reference_while_a_reader_waits_with_the_page_locked(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    view = pager.vmo("view")
    supply(pager, vmo, 1)
    with opened(vmo.path) as fd:
        os.pwrite(fd, page_bytes(1), PAGE_SIZE)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        reader = start_read(fd, 0, 2)
        assert take(pager) == "READ(0,1)"
        with command_file(pager, "vmo_create_child") as create:
            assert create.say(f"reference {vmo.name} {view.name} 0 0 no_write") == "ZX_OK\n"
        with opened(view.path, os.O_RDONLY | os.O_DIRECT) as source:
            assert os.pread(source, PAGE_SIZE, PAGE_SIZE) == page_bytes(1)
        assert not reader.done
        supply(pager, vmo)
        assert reader.result() == page_bytes(0, key=KEY) + page_bytes(1)


@pytest.mark.parametrize("options", ["resizable", "resizable trap_dirty"])
def test_a_pager_that_copies_what_is_dirty_has_the_file(pager: PagerClient, tmp_path: Path, options: str) -> None:
    vmo, copy = pager.create(size=6 * PAGE_SIZE, options=options), tmp_path / "copy"
    copy.write_bytes(page_bytes(0, 6, KEY))
    supply(pager, vmo, 0, 6)
    with opened(vmo.path) as fd, copy.open("r+b") as target:
        writer = start_write(fd, 2, 2)
        if "trap" in options:
            assert take(pager) == "DIRTY(2,2)"
            op(pager, "DIRTY", vmo, 2, 2)
        writer.result()
        os.ftruncate(fd, 9 * PAGE_SIZE)
        for record in (lines := pager.command("query_dirty_ranges", f"{vmo.name} 0 {9 * PAGE_SIZE}").splitlines())[1:]:
            offset, length, kind = record.split()
            flag = "is_zero" if kind == "zero" else ""
            pager.command("op_range", f"WRITEBACK_BEGIN {vmo.name} {offset} {length} {flag}")
            target.seek(int(offset))
            target.write(os.pread(fd, int(length), int(offset)))
            pager.command("op_range", f"WRITEBACK_END {vmo.name} {offset} {length}")
        assert len(lines) == 3
    assert dirty(pager, vmo) == ""
    assert copy.read_bytes() == page_bytes(0, 2, KEY) + page_bytes(2, 2) + page_bytes(4, 2, KEY) + bytes(3 * PAGE_SIZE)
