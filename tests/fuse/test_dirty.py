"""Becoming dirty: who is asked before a write, what a write leaves behind. Zircon: zircon-pager 2.5, 2.9, 4.1, 4.9."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Readers, Vmo, threads_asleep_in
from tests.support.writing import (
    KEY,
    OTHER,
    WRITTEN,
    clean,
    command_file,
    dirty,
    evict,
    fails_with,
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
    supply_zeros,
    take,
)
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

CODES = {
    "ZX_ERR_IO": errno.EIO,
    "ZX_ERR_IO_DATA_INTEGRITY": errno.EBADMSG,
    "ZX_ERR_BAD_STATE": errno.EBADFD,
    "ZX_ERR_NO_SPACE": errno.ENOSPC,
    "ZX_ERR_BUFFER_TOO_SMALL": errno.EOVERFLOW,
}


def trap(pager: PagerClient, pages: int = 8, supplied: int = 0) -> Vmo:
    """Make a VMO with TRAP_DIRTY and supply its first pages."""
    vmo = pager.create(size=pages * PAGE_SIZE, options="trap_dirty resizable")
    if supplied:
        supply(pager, vmo, 0, supplied)
    return vmo


def plain(pager: PagerClient, pages: int = 8, supplied: int = 0) -> Vmo:
    """Make a VMO that does not ask before a write, and supply its first pages."""
    vmo = pager.create(size=pages * PAGE_SIZE, options="resizable")
    if supplied:
        supply(pager, vmo, 0, supplied)
    return vmo


def check_file(fd: int, *keys: int | None) -> None:
    """Check page after page: the key of its content, or None for zeros."""
    for page, key in enumerate(keys):
        expected = bytes(PAGE_SIZE) if key is None else page_bytes(page, key=key)
        assert os.pread(fd, PAGE_SIZE, page * PAGE_SIZE) == expected, page


# Without TRAP_DIRTY


def test_a_write_to_present_pages_makes_them_dirty_without_a_request(pager: PagerClient) -> None:
    vmo = plain(pager, supplied=4)
    with opened(vmo.path) as fd:
        assert os.pwrite(fd, page_bytes(1, 2), PAGE_SIZE) == 2 * PAGE_SIZE
        check_file(fd, KEY, WRITTEN, WRITTEN, KEY)
    assert dirty(pager, vmo) == "{1,2}"
    assert pager.requests.is_quiet()
    assert modified(pager, vmo)


def test_a_store_through_a_mapping_makes_its_page_dirty_at_msync(pager: PagerClient) -> None:
    vmo = plain(pager, supplied=4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.store(PAGE_SIZE + 8, page_bytes(1)[8:16])
        mapping.msync()
        assert dirty(pager, vmo) == "{1,1}"
        assert os.pread(fd, PAGE_SIZE, PAGE_SIZE)[8:16] == page_bytes(1)[8:16]
        pattern.check(os.pread(fd, PAGE_SIZE - 16, PAGE_SIZE + 16), KEY, PAGE_SIZE + 16)
    assert modified(pager, vmo)
    assert pager.requests.is_quiet()


@pytest.mark.parametrize("options", ["", "trap_dirty"])
@pytest.mark.parametrize("way", ["write", "mapping"])
def test_a_write_to_a_part_of_an_absent_page_reads_it_first(pager: PagerClient, way: str, options: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options=options)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        at, data = PAGE_SIZE + 100, b"x" * 50
        if way == "write":
            writer: Background[object] = Background(lambda: os.pwrite(fd, data, at))
        else:
            writer = Background(lambda: mapping.store_and_sync(at, data))
        assert take(pager) == "READ(1,1)"
        supply(pager, vmo, 1)
        if options:
            assert take(pager) == "DIRTY(1,1)"
            op(pager, "DIRTY", vmo, 1)
        writer.result()
        found = os.pread(fd, PAGE_SIZE, PAGE_SIZE)
        assert mapping.load(PAGE_SIZE) == found == page_bytes(1, key=KEY)[:100] + data + page_bytes(1, key=KEY)[150:]
    assert dirty(pager, vmo) == "{1,1}"


def test_a_write_over_gaps_and_present_pages_reads_the_gaps_only(pager: PagerClient) -> None:
    vmo = plain(pager, 6)
    supply(pager, vmo, 2, 2)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0, 6)
        assert take(pager) == "READ(0,2)"
        supply(pager, vmo, 0, 2)
        assert take(pager) == "READ(4,2)"
        supply(pager, vmo, 4, 2)
        assert writer.result() == 6 * PAGE_SIZE
        check_file(fd, *[WRITTEN] * 6)
    assert dirty(pager, vmo) == "{0,6}"


# With TRAP_DIRTY: what DIRTY covers


def test_a_large_write_asks_in_batches_of_sixteen_pages(pager: PagerClient) -> None:
    pages = 256  # 1 MiB, in one write
    vmo = trap(pager, pages)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0, pages)
        for page in range(0, pages, 16):
            assert take(pager) == f"READ({page},16)"
            supply(pager, vmo, page, 16)
            assert take(pager) == f"DIRTY({page},16)"
            op(pager, "DIRTY", vmo, page, 16)
        assert writer.result() == pages * PAGE_SIZE
        pattern.check(os.pread(fd, pages * PAGE_SIZE, 0), WRITTEN)
    assert dirty(pager, vmo) == f"{{0,{pages}}}"
    assert pager.requests.is_quiet()


def test_a_dirty_request_mixes_clean_pages_and_markers_and_ends_at_a_gap(pager: PagerClient) -> None:
    vmo = trap(pager, 10)
    for page in (4, 6, 8):
        supply(pager, vmo, page)
    for page in (5, 7):
        supply_zeros(pager, vmo, page)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 4, 6)
        assert take(pager) == "DIRTY(4,5)"
        op(pager, "DIRTY", vmo, 4, 5)
        assert take(pager) == "READ(9,1)"
        supply(pager, vmo, 9)
        assert take(pager) == "DIRTY(9,1)"
        op(pager, "DIRTY", vmo, 9)
        assert writer.result() == 6 * PAGE_SIZE
        pattern.check(os.pread(fd, 6 * PAGE_SIZE, 4 * PAGE_SIZE), WRITTEN, 4 * PAGE_SIZE)
    assert dirty(pager, vmo) == "{4,6}"


def test_a_dirty_request_ends_at_a_dirty_page(pager: PagerClient) -> None:
    vmo = trap(pager, 1, supplied=1)
    os.truncate(vmo.path, 8 * PAGE_SIZE)
    for page, pages in ((1, 2), (4, 1)):
        op(pager, "DIRTY", vmo, page, pages)
    assert dirty(pager, vmo) == "{1,2}{3,1,Z}{4,1}{5,3,Z}"
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0, 8)
        for request in ("DIRTY(0,1)", "DIRTY(3,1)", "DIRTY(5,3)"):
            assert take(pager) == request
            op(pager, "DIRTY", vmo, int(request[6]), int(request[8]))
        assert writer.result() == 8 * PAGE_SIZE
    assert dirty(pager, vmo) == "{0,8}"


@pytest.mark.parametrize("way", ["write", "mapping"])
def test_pages_that_were_made_dirty_before_are_written_without_asking(pager: PagerClient, way: str) -> None:
    vmo = trap(pager, supplied=4)
    op(pager, "DIRTY", vmo, 0, 3)
    assert dirty(pager, vmo) == "{0,3}"
    assert not modified(pager, vmo)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        if way == "write":
            os.pwrite(fd, page_bytes(0, 3), 0)
        else:
            mapping.store(0, page_bytes(0, 3))
            mapping.msync()
        check_file(fd, WRITTEN, WRITTEN, WRITTEN, KEY)
    assert modified(pager, vmo)
    assert pager.requests.is_quiet()


def test_markers_and_zero_pages_that_are_made_dirty_get_memory(pager: PagerClient) -> None:
    vmo = trap(pager, 2)
    supply_zeros(pager, vmo, 0, 2)
    os.truncate(vmo.path, 4 * PAGE_SIZE)
    assert vmo.path.stat().st_blocks == 0
    op(pager, "DIRTY", vmo, 0, 4)
    assert vmo.path.stat().st_blocks == 4 * PAGE_SIZE // 512
    assert dirty(pager, vmo) == "{0,4}"
    with opened(vmo.path) as fd:
        check_file(fd, None, None, None, None)


def test_reading_asks_for_no_dirty_pages(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=2)
    with opened(vmo.path) as fd, mapped(fd, 2) as mapping:
        pattern.check(mapping.load(0, 2 * PAGE_SIZE), KEY)
        mapping.msync()
        os.fsync(fd)
    assert dirty(pager, vmo) == ""
    assert not modified(pager, vmo)
    assert pager.requests.is_quiet()


# With TRAP_DIRTY: refused


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("way", ["write", "mapping"])
def test_what_the_pager_refuses_fails_and_is_not_seen(pager: PagerClient, way: str, code: str) -> None:
    vmo = trap(pager, supplied=4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        assert mapping.load(PAGE_SIZE) == page_bytes(1, key=KEY)
        if way == "write":
            writer: Background[object] = Background(lambda: os.pwrite(fd, page_bytes(1, 2), PAGE_SIZE))
        else:
            writer = Background(lambda: mapping.store_and_sync(PAGE_SIZE, page_bytes(1, 2)))
        request = pager.requests.next()
        assert request.offset == PAGE_SIZE
        pager.fail(vmo, PAGE_SIZE, 2 * PAGE_SIZE, code)
        if way == "mapping":
            answer_everything(pager, vmo, writer, code)
        assert writer.errno() == CODES[code]
        wait_for(lambda: os.pread(fd, 8, PAGE_SIZE) == page_bytes(1, key=KEY)[:8], "what was refused is gone")
        wait_for(lambda: mapping.load(PAGE_SIZE) == page_bytes(1, key=KEY), "it is gone from the mapping")
        wait_for(lambda: mapping.load(2 * PAGE_SIZE) == page_bytes(2, key=KEY), "the other page, too")
        check_file(fd, KEY, KEY, KEY, KEY)
    assert dirty(pager, vmo) == ""
    assert not modified(pager, vmo)


def answer_everything(pager: PagerClient, vmo: Vmo, writer: Background[object], code: str) -> None:
    """Fail whatever is asked: msync may write pages one by one."""

    def step() -> bool:
        if pager.pending():
            pager.fail(vmo, 0, 8 * PAGE_SIZE, code)
        return writer.done

    wait_for(step, "the writer ends")
    while not pager.requests.is_quiet():
        pager.requests.next()


def test_a_refused_store_fails_fsync_once(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=1)
    with opened(vmo.path) as fd, mapped(fd, 1) as mapping:
        mapping.store(0, b"refused")
        sync = Background(lambda: os.fsync(fd))
        assert take(pager) == "DIRTY(0,1)"
        pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
        assert sync.errno() == errno.ENOSPC
        os.fsync(fd)
        wait_for(lambda: mapping.load(0) == page_bytes(0, key=KEY), "what was refused is gone")


def test_a_refused_marker_stays_a_marker(pager: PagerClient) -> None:
    vmo = trap(pager, 1)
    supply_zeros(pager, vmo)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0)
        assert take(pager) == "DIRTY(0,1)"
        pager.fail(vmo, 0, PAGE_SIZE)
        assert writer.errno() == errno.EIO
        check_file(fd, None)
    assert vmo.xattr("marker_pages") == "1"
    assert vmo.path.stat().st_blocks == 0


def test_a_write_whose_second_page_is_refused_asks_for_it_again(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=2)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0, 2)
        assert take(pager) == "DIRTY(0,2)"
        op(pager, "DIRTY", vmo, 0)
        pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
        assert take(pager) == "DIRTY(1,1)"
        pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
        assert writer.errno() == errno.EIO
        wait_for(lambda: os.pread(fd, PAGE_SIZE, PAGE_SIZE) == page_bytes(1, key=KEY), "the second page is as before")
        check_file(fd, WRITTEN, KEY)
    assert modified(pager, vmo)


def test_a_write_that_nobody_answers_times_out(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=1)
    (pager.control / "deadline").write_text("1\n")
    with opened(vmo.path) as fd:
        assert start_write(fd, 0).errno() == errno.ETIMEDOUT
        wait_for(lambda: os.pread(fd, PAGE_SIZE, 0) == page_bytes(0, key=KEY), "the page is as before")


# While a writer waits


def test_readers_suppliers_and_eviction_go_on_while_a_writer_waits(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=4)
    with opened(vmo.path) as fd, mapped(fd, 8) as mapping:
        writer = start_write(fd, 0, 2)
        assert take(pager) == "DIRTY(0,2)"
        pattern.check(mapping.load(3 * PAGE_SIZE), KEY, 3 * PAGE_SIZE)
        pattern.check(os.pread(fd, PAGE_SIZE, 2 * PAGE_SIZE), KEY, 2 * PAGE_SIZE)
        reader = start_read(fd, 6)
        assert take(pager) == "READ(6,1)"
        supply(pager, vmo, 6)
        pattern.check(reader.result(), KEY, 6 * PAGE_SIZE)
        assert evict(pager, vmo, 2, 6) == 3
        loader = Background(lambda: mapping.load(3 * PAGE_SIZE))
        assert take(pager) == "READ(3,1)"
        supply(pager, vmo, 3, key=OTHER)
        pattern.check(loader.result(), OTHER, 3 * PAGE_SIZE)
        assert vmo.path.stat().st_size == 8 * PAGE_SIZE
        assert not writer.done
        op(pager, "DIRTY", vmo, 0, 2)
        writer.result()
        check_file(fd, WRITTEN, WRITTEN)


@pytest.mark.parametrize("length", [100, PAGE_SIZE])
def test_a_page_that_is_supplied_for_a_writer_never_hides_what_he_writes(pager: PagerClient, length: int) -> None:
    vmo = trap(pager)
    with opened(vmo.path) as fd, mapped(fd, 8) as mapping:
        for page in range(8):
            data = page_bytes(page)[:length]
            at = page * PAGE_SIZE
            writer = Background(lambda data=data, at=at: os.pwrite(fd, data, at))  # type: ignore[misc] # bound here
            assert take(pager) == f"READ({page},1)"
            supply(pager, vmo, page)
            assert take(pager) == f"DIRTY({page},1)"
            op(pager, "DIRTY", vmo, page)
            assert writer.result() == length
            assert mapping.load(at, length) == data
            assert os.pread(fd, length, at) == data


def test_many_pages_written_while_all_are_supplied_are_what_was_written(pager: PagerClient) -> None:
    pages = 200
    vmo = pager.create(size=pages * PAGE_SIZE)
    with opened(vmo.path, os.O_RDONLY) as reader, opened(vmo.path) as fd:
        supplier = Background(lambda: supply_one_by_one(pager, vmo, pages))
        for page in reversed(range(pages)):
            os.pwrite(fd, page_bytes(page), page * PAGE_SIZE)
        supplier.result()
        for page in range(pages):
            pattern.check(os.pread(reader, PAGE_SIZE, page * PAGE_SIZE), WRITTEN, page * PAGE_SIZE)
        pattern.check(os.pread(fd, pages * PAGE_SIZE, 0), WRITTEN)
    assert dirty(pager, vmo) == f"{{0,{pages}}}"


def supply_one_by_one(pager: PagerClient, vmo: Vmo, pages: int) -> bool:
    for page in range(pages):
        supply(pager, vmo, page)
    return True


def test_a_page_evicted_under_a_writer_is_read_again_and_asked_for_again(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=1)
    with opened(vmo.path) as fd:
        writer = Background(lambda: os.pwrite(fd, b"end", PAGE_SIZE - 3))
        assert take(pager) == "DIRTY(0,1)"
        assert evict(pager, vmo) == 1
        assert refused_op(pager, "DIRTY", vmo) == errno.ENODATA
        assert take(pager) == "READ(0,1)"
        supply(pager, vmo, key=OTHER)
        assert take(pager) == "DIRTY(0,1)"
        op(pager, "DIRTY", vmo)
        assert writer.result() == 3
        assert os.pread(fd, PAGE_SIZE, 0) == page_bytes(0, key=OTHER)[:-3] + b"end"


def test_a_page_made_zero_under_a_writer_is_not_resolved_by_that(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=1)
    with opened(vmo.path) as fd, command_file(pager, "vmo_op_range") as vmo_op_range:
        writer = Background(lambda: os.pwrite(fd, b"end", PAGE_SIZE - 3))
        assert take(pager) == "DIRTY(0,1)"
        assert vmo_op_range.say(f"zero {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"
        assert not writer.done
        clean(pager, vmo, 0)
        assert refused_op(pager, "DIRTY", vmo) == errno.ENODATA
        assert take(pager) == "READ(0,1)"
        supply(pager, vmo)
        assert take(pager) == "DIRTY(0,1)"
        op(pager, "DIRTY", vmo)
        assert writer.result() == 3


def test_looking_at_a_file_that_was_written_waits_for_no_reader(pager: PagerClient) -> None:
    vmo = plain(pager, supplied=1)
    with opened(vmo.path) as fd:
        before = vmo.path.stat().st_mtime_ns
        os.pread(fd, 1, 0)
        reader = start_read(fd, 5)
        assert take(pager) == "READ(5,1)"
        os.pwrite(fd, b"x", 0)
        looks: dict[str, Background[object]] = {
            "stat": Background(vmo.path.stat),
            "fstat": Background(lambda: os.fstat(fd)),
            "xattr": Background(lambda: vmo.xattr("key")),
            "read": Background(lambda: os.pread(fd, 1, 0)),
        }
        for look in looks.values():
            look.result()
        with opened(vmo.path, os.O_RDONLY) as other:
            assert os.pread(other, 1, 0) == b"x"
        assert not reader.done
        supply(pager, vmo, 5)
        reader.result()
        wait_for(lambda: os.fstat(fd).st_mtime_ns > before, "the time of the write is seen")


# What OP_DIRTY refuses


def test_op_dirty_checks_in_the_order_of_the_contract(pager: PagerClient) -> None:
    vmo, other = trap(pager, 4, supplied=2), pager.create("plain", 4 * PAGE_SIZE)
    assert refused_op(pager, "DIRTY", vmo, 0, 1, "1") == errno.EINVAL
    assert refused_op(pager, "DIRTY", other, 3, 9) == errno.EOPNOTSUPP  # before the range
    assert refused_op(pager, "DIRTY", vmo, 3, 2) == errno.ERANGE
    assert refused_op(pager, "DIRTY", vmo, 2**52 - 1, 1) == errno.ERANGE
    assert refused_op(pager, "DIRTY", vmo, 0, 3) == errno.ENODATA
    assert dirty(pager, vmo) == ""  # all or nothing
    op(pager, "DIRTY", vmo, 4, 0)
    assert refused_op(pager, "DIRTY", vmo, 5, 0) == errno.ERANGE
    pager.command("detach_vmo", vmo.name)
    assert refused_op(pager, "DIRTY", vmo, 0, 0) == errno.EBADFD


def test_alignment_comes_before_names_and_the_operation_after_the_match(pager: PagerClient) -> None:
    vmo = trap(pager)
    nothing = f"vmo/{pager.name}/nothing"
    stranger = PagerClient(pager.mount)
    try:
        foreign = stranger.create()
        for line, expected in {
            f"DIRTY {nothing} 1 {PAGE_SIZE}": errno.EINVAL,
            f"DIRTY {nothing} 0 1": errno.EINVAL,
            f"DIRTY {nothing} 0 {PAGE_SIZE}": errno.ENOENT,
            f"DIRTY vmo/{pager.name} 0 {PAGE_SIZE}": errno.EMEDIUMTYPE,
            f"NONSENSE {foreign.name} 0 {PAGE_SIZE}": errno.EINVAL,
            f"DIRTY {foreign.name} 0 {PAGE_SIZE}": errno.EINVAL,
            f"NONSENSE {vmo.name} 0 {PAGE_SIZE}": errno.EOPNOTSUPP,
        }.items():
            assert pager.refused("op_range", line).errno == expected, line
    finally:
        stranger.close()


# Modified


def test_modified_is_set_by_what_changes_the_vmo_and_by_nothing_else(pager: PagerClient) -> None:
    vmo = trap(pager, 4, supplied=3)
    op(pager, "DIRTY", vmo, 0, 3)
    clean(pager, vmo, 1)
    with opened(vmo.path) as fd, command_file(pager, "vmo_op_range") as vmo_op_range:
        os.pread(fd, PAGE_SIZE, 0)
        assert vmo_op_range.say(f"commit {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"
        assert not modified(pager, vmo)
        os.pwrite(fd, b"x", 0)
        assert modified(pager, vmo)
        assert modified(pager, vmo, reset=True)
        assert not modified(pager, vmo, reset=True)
        os.ftruncate(fd, 4 * PAGE_SIZE)  # the same size
        assert modified(pager, vmo, reset=True)
        assert vmo_op_range.say(f"zero {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"
        assert modified(pager, vmo, reset=True)
        assert fails_with(lambda: os.truncate(vmo.path, -1)) == errno.EINVAL
        assert not modified(pager, vmo)
        clean(pager, vmo, 0, 3)
        assert not modified(pager, vmo)


# What stat says


def test_stat_shows_size_blocks_and_time_after_a_write(pager: PagerClient) -> None:
    vmo = pager.create(size=0, options="resizable")
    with opened(vmo.path) as fd:
        before = os.fstat(fd)
        assert (before.st_size, before.st_blocks) == (0, 0)
        os.pwrite(fd, b"x" * 5000, 0)
        after = os.fstat(fd)
        assert (after.st_size, after.st_blocks) == (5000, 16)
        assert after.st_mtime_ns > before.st_mtime_ns
        assert vmo.path.stat() == os.fstat(fd)
        os.utime(fd, ns=(1, 2))
        assert os.fstat(fd).st_mtime_ns == vmo.path.stat().st_mtime_ns == 2


# Without a pager


@pytest.mark.parametrize("options", ["", "trap_dirty"])
def test_after_detach_what_is_dirty_can_be_written_and_what_is_absent_cannot(pager: PagerClient, options: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options=options)
    supply(pager, vmo, 0, 3)
    with opened(vmo.path) as fd:
        for page in (0, 1):
            if options:
                op(pager, "DIRTY", vmo, page)
            os.pwrite(fd, page_bytes(page), page * PAGE_SIZE)
        op(pager, "WRITEBACK_BEGIN", vmo, 1)
        pager.command("detach_vmo", vmo.name)
        assert os.pwrite(fd, page_bytes(0, key=OTHER), 0) == PAGE_SIZE
        assert start_write(fd, 2).errno() == errno.EBADFD
        assert start_write(fd, 3).errno() == errno.EBADFD
        if options:  # awaiting clean: it would have to ask
            assert start_write(fd, 1).errno() == errno.EBADFD
        else:
            assert start_write(fd, 1).result() == PAGE_SIZE
        wait_for(lambda: os.pread(fd, PAGE_SIZE, PAGE_SIZE) == page_bytes(1), "what was kept is there")
        check_file(fd, OTHER, WRITTEN)
    assert query(pager, vmo, 0, 4 * PAGE_SIZE) == "{0,2}"
    assert pager.requests.next().command.value == "COMPLETE"
    assert pager.requests.is_quiet()


@pytest.mark.parametrize("end", ["detach", "close"])
def test_who_waits_with_a_write_gets_an_error_when_the_pager_goes(pager: PagerClient, end: str) -> None:
    vmo = trap(pager, supplied=1)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0)
        assert take(pager) == "DIRTY(0,1)"
        if end == "detach":
            pager.command("detach_vmo", vmo.name)
        else:
            pager.stop_reading()
            pager.control.rmdir()
        assert writer.errno() == errno.EBADFD


_WRITER = r"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("data", b"started".hex(), flush=True)
os.pwrite(fd, b"x" * 4096, 0)
"""


def test_a_writer_that_waits_can_be_killed(pager: PagerClient, start: Readers) -> None:
    vmo = trap(pager, supplied=1)
    writer = start.run(_WRITER, vmo.path)
    assert writer.next() == b"started"
    assert take(pager) == "DIRTY(0,1)"
    assert writer.kill() < 5
    wait_for(lambda: not pager.pending(), "the request is withdrawn")
    with opened(vmo.path) as fd:
        wait_for(lambda: os.pread(fd, PAGE_SIZE, 0) == page_bytes(0, key=KEY), "nothing was written")
    assert dirty(pager, vmo) == ""


def test_a_new_pager_is_asked_again_what_the_killed_one_left(pager: PagerClient) -> None:
    vmo = trap(pager, supplied=1)
    with opened(vmo.path) as fd:
        writer = start_write(fd, 0)
        assert take(pager) == "DIRTY(0,1)"
        pager.stop_reading()
        assert take(pager) == "DIRTY(0,1)"
        op(pager, "DIRTY", vmo)
        writer.result()
        check_file(fd, WRITTEN)


def test_two_files_wait_apart_from_each_other(pager: PagerClient, tmp_path: Path) -> None:
    first, second = trap(pager, supplied=1), pager.create("second", PAGE_SIZE, "trap_dirty")
    supply(pager, second)
    with opened(first.path) as one, opened(second.path) as two:
        waiting, other = start_write(one, 0), start_write(two, 0)
        assert {request.path for request in pager.requests.take(2)} == {first.name, second.name}
        op(pager, "DIRTY", second)
        other.result()
        assert not waiting.done
        op(pager, "DIRTY", first)
        waiting.result()
        (tmp_path / "copy").write_bytes(os.pread(one, PAGE_SIZE, 0))
    assert (tmp_path / "copy").read_bytes() == page_bytes(0)


def test_splice_moves_nothing_of_a_page_whose_write_fails_while_it_is_in_the_pipe(
    pager: PagerClient, tmp_path: Path
) -> None:
    """As the kernel does with a page that is truncated then; sendfile is splice through a pipe of its own."""
    vmo = pager.create(size=PAGE_SIZE, options="trap_dirty")
    supply(pager, vmo, 0)
    with opened(vmo.path) as fd, opened(vmo.path, os.O_RDONLY) as source, (tmp_path / "copy").open("wb") as copy:
        assert os.pread(source, PAGE_SIZE, 0) == page_bytes(0, key=KEY)
        writer = start_write(fd, 0)
        assert take(pager) == "DIRTY(0,1)"
        end, begin = os.pipe()
        try:
            assert os.splice(source, begin, PAGE_SIZE) == PAGE_SIZE
            op(pager, "FAIL", vmo, data="ZX_ERR_IO")
            assert fails_with(writer.result) == errno.EIO
            evict(pager, vmo)  # waits until what was refused is dropped from the page cache
            assert os.splice(end, copy.fileno(), PAGE_SIZE) == 0
        finally:
            os.close(end)
            os.close(begin)


def test_a_read_that_waits_does_not_bring_back_what_was_written_meanwhile(pager: PagerClient) -> None:
    """It has copied the first page, waits for the second, and has both locked in the page cache."""
    old, new, other = (letter * PAGE_SIZE for letter in (b"o", b"n", b"x"))
    vmo = pager.create(size=2 * PAGE_SIZE, options="trap_dirty")
    pager.supply_bytes(vmo, old)
    with vmo.path.open("r+b", buffering=0) as file:
        fd = file.fileno()
        writer = Background(lambda: os.pwrite(fd, new, 0))
        assert pager.requests.next().command is PacketCommand.DIRTY
        pager.command("evict", f"{vmo.name} 0 {PAGE_SIZE}")  # what is being written goes from the page cache
        reader = Background(lambda: os.pread(fd, 2 * PAGE_SIZE, 0))
        pager.take_read(vmo, 0, 2 * PAGE_SIZE)
        pager.supply_bytes(vmo, old)
        pager.command("op_range", f"DIRTY {vmo.name} 0 {PAGE_SIZE}")
        assert writer.result() == PAGE_SIZE
        late = [Background(lambda: os.pread(fd, PAGE_SIZE, 0)) for _ in range(10)]
        wait_for(lambda: threads_asleep_in(fd) == 11, "all threads wait")
        pager.supply_bytes(vmo, other, PAGE_SIZE)
        assert all(each.result() == new for each in late)
        assert reader.result() == new + other


@pytest.mark.parametrize("change", ["reference", "slice", "zero"])
def test_a_read_that_waits_does_not_bring_back_what_changed_by_another_name(pager: PagerClient, change: str) -> None:
    """It has copied the first page, waits for the second, and has both locked in the page cache."""
    old, new, other = (letter * PAGE_SIZE for letter in (b"o", b"n", b"x"))
    vmo = pager.create(size=2 * PAGE_SIZE)
    pager.supply_bytes(vmo, old)
    with vmo.path.open("rb", buffering=0) as file:
        fd = file.fileno()
        reader = Background(lambda: os.pread(fd, 2 * PAGE_SIZE, 0))
        pager.take_read(vmo, PAGE_SIZE, PAGE_SIZE)
        if change == "zero":
            new = bytes(PAGE_SIZE)
            pager.command("../vmo_op_range", f"zero {vmo.name} 0 {PAGE_SIZE}")
        else:
            child = pager.vmo("child")
            length = 0 if change == "reference" else 2 * PAGE_SIZE
            pager.command("../vmo_create_child", f"{change} {vmo.name} {child.name} 0 {length}")
            with child.path.open("r+b", buffering=0) as written:
                written.write(new)
        late = [Background(lambda: os.pread(fd, PAGE_SIZE, 0)) for _ in range(10)]
        wait_for(lambda: threads_asleep_in(fd) == 11, "all threads wait")
        pager.supply_bytes(vmo, other, PAGE_SIZE)
        assert all(each.result() == new for each in late)
        assert reader.result() == new + other
