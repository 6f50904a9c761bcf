"""Files that grow and shrink: truncate, writes beyond the end, stream size. zircon-pager 2.10, 3.8, 4.2, 4.3."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Readers
from tests.support.writing import (
    KEY,
    OTHER,
    clean,
    command_file,
    dirty,
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
    take,
)
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE


def zeros(pages: int = 1) -> bytes:
    return bytes(pages * PAGE_SIZE)


# Fixed VMOs


def test_a_fixed_vmo_cannot_be_truncated(pager: PagerClient) -> None:
    vmo = pager.create(size=5000)
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd:
        for size in (0, 5000, 9000):
            assert fails_with(lambda size=size: os.ftruncate(fd, size)) == errno.EPERM  # type: ignore[misc]
            assert fails_with(lambda size=size: os.truncate(vmo.path, size)) == errno.EPERM  # type: ignore[misc]
        assert fails_with(lambda: os.open(vmo.path, os.O_RDWR | os.O_TRUNC)) == errno.EPERM
        assert os.fstat(fd).st_size == vmo.path.stat().st_size == 5000
        pattern.check(os.pread(fd, 9000, 0), KEY)
    assert not modified(pager, vmo)


def test_a_write_over_the_end_of_a_fixed_vmo_is_short_and_one_beyond_it_is_enospc(pager: PagerClient) -> None:
    vmo = pager.create(size=5000)
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd, opened(vmo.path, os.O_WRONLY | os.O_APPEND) as appending:
        assert os.pwrite(fd, b"x" * 20, 4990) == 10
        assert fails_with(lambda: os.pwrite(fd, b"x", 5000)) == errno.ENOSPC
        assert fails_with(lambda: os.pwrite(fd, b"x", 9000)) == errno.ENOSPC
        assert fails_with(lambda: os.write(appending, b"x")) == errno.ENOSPC
        assert os.pwrite(fd, b"y" * 3 * PAGE_SIZE, PAGE_SIZE) == 5000 - PAGE_SIZE
        assert os.pread(fd, 9000, PAGE_SIZE) == b"y" * (5000 - PAGE_SIZE)
        assert os.fstat(fd).st_size == 5000


def test_bytes_stored_beyond_the_end_of_the_file_go_nowhere(pager: PagerClient) -> None:
    vmo = pager.create(size=100, options="resizable")
    supply(pager, vmo)
    with opened(vmo.path) as fd, mapped(fd, 1) as mapping:
        mapping.store(50, b"x" * 100)
        mapping.msync()
        assert os.fstat(fd).st_size == 100
        assert os.pread(fd, 200, 0) == page_bytes(0, key=KEY)[:50] + b"x" * 50
    os.truncate(vmo.path, 200)
    with opened(vmo.path) as fd:
        assert os.pread(fd, 200, 100) == bytes(100)


# Growing


def test_what_is_new_reads_as_zeros_is_dirty_and_is_never_asked_for(pager: PagerClient) -> None:
    vmo = pager.create(size=PAGE_SIZE, options="resizable trap_dirty")
    with opened(vmo.path) as fd:
        os.ftruncate(fd, 4 * PAGE_SIZE)
        assert os.fstat(fd).st_size == vmo.path.stat().st_size == 4 * PAGE_SIZE
        with mapped(fd, 4) as mapping:
            assert mapping.load(PAGE_SIZE, 3 * PAGE_SIZE) == os.pread(fd, 3 * PAGE_SIZE, PAGE_SIZE) == zeros(3)
        supply(pager, vmo, 1, 3)  # changes nothing
        assert os.pread(fd, 3 * PAGE_SIZE, PAGE_SIZE) == zeros(3)
        assert os.fstat(fd).st_blocks == 1  # page 0 is absent
    assert dirty(pager, vmo) == "{1,3,Z}"
    assert modified(pager, vmo)
    os.truncate(vmo.path, 10 * PAGE_SIZE)
    assert dirty(pager, vmo) == "{1,9,Z}"
    assert pager.requests.is_quiet()


def test_writes_split_what_is_new(pager: PagerClient) -> None:
    vmo = pager.create(size=PAGE_SIZE, options="resizable")
    os.truncate(vmo.path, 10 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        for page in (1, 6, 9):
            os.pwrite(fd, page_bytes(page), page * PAGE_SIZE)
        for page in range(1, 10):
            expected = page_bytes(page) if page in {1, 6, 9} else zeros()
            assert os.pread(fd, PAGE_SIZE, page * PAGE_SIZE) == expected
    assert dirty(pager, vmo) == "{1,1}{2,4,Z}{6,1}{7,2,Z}{9,1}"


@pytest.mark.parametrize("way", ["write", "append"])
@pytest.mark.parametrize("options", ["resizable", "unbounded", "resizable trap_dirty", "unbounded trap_dirty"])
def test_a_write_beyond_the_end_makes_the_file_longer(pager: PagerClient, way: str, options: str) -> None:
    vmo = pager.create(size=0, options=options)
    at = 0 if way == "append" else 3 * PAGE_SIZE + 10
    with opened(vmo.path, os.O_RDWR | (os.O_APPEND if way == "append" else 0)) as fd:
        writer = Background(lambda: os.write(fd, b"x" * 100) if way == "append" else os.pwrite(fd, b"x" * 100, at))
        if "trap" in options:
            assert take(pager) == f"DIRTY({at // PAGE_SIZE},1)"
            op(pager, "DIRTY", vmo, at // PAGE_SIZE)
        assert writer.result() == 100
        assert os.fstat(fd).st_size == vmo.path.stat().st_size == at + 100
        assert os.pread(fd, 2 * PAGE_SIZE, 0) == (b"x" * 100 if way == "append" else zeros(2))
        assert os.pread(fd, 200, at) == b"x" * 100
    assert pager.requests.is_quiet()


def test_appending_to_an_absent_page_reads_it(pager: PagerClient) -> None:
    vmo = pager.create(size=100, options="resizable")
    with opened(vmo.path, os.O_RDWR | os.O_APPEND) as fd:
        writer = Background(lambda: os.write(fd, b"appended"))
        assert take(pager) == "READ(0,1)"
        supply(pager, vmo)
        assert writer.result() == 8
        assert os.pread(fd, 200, 0) == page_bytes(0, key=KEY)[:100] + b"appended"


def test_many_small_appends_make_one_file(pager: PagerClient) -> None:
    vmo = pager.create(size=0, options="resizable")
    lines = [f"line {number}\n".encode() for number in range(2000)]
    with vmo.path.open("ab", buffering=0) as file:
        for line in lines:
            file.write(line)
    assert vmo.path.read_bytes() == b"".join(lines)
    assert pager.requests.is_quiet()


# Shrinking


@pytest.mark.parametrize("way", ["pread", "mmap"])
def test_what_was_cut_off_is_zeros_when_the_file_grows_again(pager: PagerClient, way: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        os.pwrite(fd, page_bytes(3), 3 * PAGE_SIZE)
        mapping.load(0, 4 * PAGE_SIZE)
        os.ftruncate(fd, 2 * PAGE_SIZE)
        assert dirty(pager, vmo) == ""
        assert os.fstat(fd).st_blocks == 2 * PAGE_SIZE // 512
        assert os.pread(fd, 4 * PAGE_SIZE, 0) == page_bytes(0, 2, KEY)
        os.ftruncate(fd, 4 * PAGE_SIZE)
        read = mapping.load if way == "mmap" else lambda at, length: os.pread(fd, length, at)
        assert read(0, 4 * PAGE_SIZE) == page_bytes(0, 2, KEY) + zeros(2)
    assert dirty(pager, vmo) == "{2,2,Z}"


def test_the_rest_of_the_last_page_is_zeroed(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 2)
    with opened(vmo.path) as fd, mapped(fd, 2) as mapping:
        mapping.load(0)
        os.ftruncate(fd, 100)
        assert mapping.load(0) == page_bytes(0, key=KEY)[:100] + bytes(PAGE_SIZE - 100)
        os.ftruncate(fd, PAGE_SIZE)
        assert os.pread(fd, PAGE_SIZE, 0) == page_bytes(0, key=KEY)[:100] + bytes(PAGE_SIZE - 100)
    assert dirty(pager, vmo) == "{0,1}"


@pytest.mark.parametrize("answer", ["granted", "refused"])
def test_a_size_within_an_absent_page_reads_it_and_asks_but_is_set_whatever_comes(
    pager: PagerClient, answer: str
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable trap_dirty")
    with opened(vmo.path) as fd:
        truncation = Background(lambda: os.ftruncate(fd, PAGE_SIZE + 100))
        assert take(pager) == "READ(1,1)"
        assert vmo.xattr("size_pages") == "2"
        if answer == "granted":
            supply(pager, vmo, 1)
            assert take(pager) == "DIRTY(1,1)"
            op(pager, "DIRTY", vmo, 1)
        else:
            pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
        truncation.result()
        assert os.fstat(fd).st_size == PAGE_SIZE + 100
    assert dirty(pager, vmo) == ("{1,1}" if answer == "granted" else "")


def test_readers_beyond_the_new_end_get_the_end_of_the_file(pager: PagerClient) -> None:
    vmo = pager.create(size=8 * PAGE_SIZE, options="resizable")
    with opened(vmo.path) as fd, opened(vmo.path, os.O_RDONLY | os.O_DIRECT) as direct:
        buffered, straight = start_read(fd, 6), start_read(direct, 4, 2)
        assert {take(pager), take(pager)} == {"READ(6,1)", "READ(4,2)"}
        os.ftruncate(fd, 2 * PAGE_SIZE)
        assert (buffered.result(), straight.result()) == (b"", b"")
        assert not pager.pending()


@pytest.mark.parametrize("direct", [0, os.O_DIRECT])
def test_a_reader_of_which_a_part_is_cut_off_gets_the_rest(pager: PagerClient, direct: int) -> None:
    vmo = pager.create(size=8 * PAGE_SIZE, options="resizable")
    with opened(vmo.path) as fd, opened(vmo.path, os.O_RDONLY | direct) as reading:
        reader = start_read(reading, 0, 4)
        assert take(pager) == "READ(0,4)"
        truncation = Background(lambda: os.ftruncate(fd, 2 * PAGE_SIZE))  # waits for the reader's pages in the kernel
        wait_for(lambda: vmo.xattr("size_pages") == "2", "the VMO has shrunk")
        assert not reader.done
        supply(pager, vmo, 0, 2)
        assert reader.result() == page_bytes(0, 2, KEY)
        truncation.result()
        assert os.pread(fd, 8 * PAGE_SIZE, 0) == page_bytes(0, 2, KEY)


_FAULT = r"""
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(fd, int(sys.argv[2]))
print("data", mapping[0:8].hex(), flush=True)
sys.stdout.flush()
print("data", mapping[int(sys.argv[3]) : int(sys.argv[3]) + 8].hex(), flush=True)
"""


def test_a_fault_that_waits_beyond_the_new_end_is_sigbus(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    supply(pager, vmo)
    process = start.run(_FAULT, vmo.path, 4 * PAGE_SIZE, 3 * PAGE_SIZE)
    assert process.next() == page_bytes(0, key=KEY)[:8]
    assert take(pager) == "READ(3,1)"
    os.truncate(vmo.path, PAGE_SIZE)
    assert process.failure() == -signal.SIGBUS


def test_a_store_that_was_cut_off_is_gone(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.store(0, b"kept")
        mapping.store(3 * PAGE_SIZE, b"gone")
        os.ftruncate(fd, PAGE_SIZE)
        mapping.msync()
        os.ftruncate(fd, 4 * PAGE_SIZE)
        assert mapping.load(3 * PAGE_SIZE) == zeros()
        assert os.pread(fd, 4, 0) == b"kept"
    assert dirty(pager, vmo) == "{0,1}{1,3,Z}"


def test_a_file_that_open_emptied_stays_empty_whatever_was_stored_through_mappings(pager: PagerClient) -> None:
    vmo = pager.create(size=0, options="resizable")
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        for _ in range(100):
            os.ftruncate(fd, 4 * PAGE_SIZE)
            mapping.store(2 * PAGE_SIZE, b"stored")
            os.close(os.open(vmo.path, os.O_RDWR | os.O_TRUNC))
            assert vmo.path.stat().st_size == 0


def test_open_with_truncation_empties_the_file(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping:
        mapping.load(0, 4 * PAGE_SIZE)
        vmo.path.write_bytes(b"new")
        assert os.pread(fd, 100, 0) == b"new"
        assert mapping.load(0) == b"new".ljust(PAGE_SIZE, b"\0")
        assert os.fstat(fd).st_size == 3


def test_pinned_pages_are_not_cut_off(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable")
    supply(pager, vmo, 0, 4)
    with command_file(pager, "vmo_pin") as pin:
        assert pin.say(f"{vmo.name} {2 * PAGE_SIZE} {PAGE_SIZE}") == "ZX_OK\n"
        assert fails_with(lambda: os.truncate(vmo.path, PAGE_SIZE)) == errno.EBADFD
        assert not modified(pager, vmo)
        os.truncate(vmo.path, 3 * PAGE_SIZE)
    os.truncate(vmo.path, PAGE_SIZE)
    assert vmo.path.read_bytes() == page_bytes(0, key=KEY)


# Growth, END, and then absent


@pytest.mark.parametrize("way", ["pread", "mmap"])
def test_what_is_new_and_was_written_back_must_be_supplied(pager: PagerClient, way: str) -> None:
    vmo = pager.create(size=PAGE_SIZE, options="resizable")
    os.truncate(vmo.path, 3 * PAGE_SIZE)
    with opened(vmo.path) as fd, mapped(fd, 3) as mapping:
        assert os.pread(fd, PAGE_SIZE, PAGE_SIZE) == mapping.load(PAGE_SIZE) == zeros()
        clean(pager, vmo, 1, 2)
        assert dirty(pager, vmo) == ""
        reader = start_read(fd, 1) if way == "pread" else Background(lambda: mapping.load(PAGE_SIZE))
        assert take(pager) == "READ(1,1)"
        supply(pager, vmo, 1, key=OTHER)
        assert reader.result() == mapping.load(PAGE_SIZE) == page_bytes(1, key=OTHER)


# Stream sizes


def test_an_unbounded_vmo_has_the_size_of_its_content(pager: PagerClient) -> None:
    vmo = pager.create(size=PAGE_SIZE + 10, options="unbounded")
    with opened(vmo.path) as fd, command_file(pager, "vmo_set_stream_size") as set_stream_size:
        assert os.fstat(fd).st_size == PAGE_SIZE + 10
        assert fails_with(lambda: os.ftruncate(fd, 0)) == errno.EPERM
        assert set_stream_size.say(f"{vmo.name} {PAGE_SIZE + 10}") == "ZX_OK\n"
        assert set_stream_size.say(f"{vmo.name} 15E").startswith(f"{errno.ERANGE} ZX_ERR_OUT_OF_RANGE: ")
    assert pager.refused("create_vmo", f"vmo/{pager.name}/x 0 unbounded resizable").errno == errno.EINVAL
    assert pager.refused("create_vmo", f"vmo/{pager.name}/x 15E unbounded").errno == errno.ERANGE


def test_a_stream_size_that_grows_and_shrinks_is_seen_at_once(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE, options="unbounded")
    supply(pager, vmo, 0, 2)
    with (
        opened(vmo.path) as fd,
        mapped(fd, 4) as mapping,
        command_file(pager, "vmo_set_stream_size") as set_stream_size,
    ):
        assert set_stream_size.say(f"{vmo.name} {4 * PAGE_SIZE}") == "ZX_OK\n"
        assert os.fstat(fd).st_size == 4 * PAGE_SIZE
        assert os.pread(fd, 8 * PAGE_SIZE, 0) == page_bytes(0, 2, KEY) + zeros(2)
        assert query(pager, vmo, 0, 8 * PAGE_SIZE) == "{2,2,Z}"
        os.pwrite(fd, page_bytes(3), 3 * PAGE_SIZE)
        assert mapping.load(3 * PAGE_SIZE) == page_bytes(3)
        assert set_stream_size.say(f"{vmo.name} {PAGE_SIZE + 100}") == "ZX_OK\n"
        assert os.fstat(fd).st_size == vmo.path.stat().st_size == PAGE_SIZE + 100
        assert os.pread(fd, 8 * PAGE_SIZE, 0) == page_bytes(0, 2, KEY)[: PAGE_SIZE + 100]
        assert query(pager, vmo, 0, 8 * PAGE_SIZE) == "{1,1}"
        assert set_stream_size.say(f"{vmo.name} {4 * PAGE_SIZE}") == "ZX_OK\n"
        assert os.fstat(fd).st_size == 4 * PAGE_SIZE  # a page fault alone does not look at the size again
        assert mapping.load(PAGE_SIZE, 3 * PAGE_SIZE)[100:] == bytes(3 * PAGE_SIZE - 100)
    assert modified(pager, vmo)


def test_a_stream_size_within_a_page_waits_for_the_pager_and_fails_as_it_says(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE, options="trap_dirty")
    with command_file(pager, "vmo_set_stream_size") as set_stream_size:
        set_stream_size.write(f"{vmo.name} {PAGE_SIZE + 100}")
        assert take(pager) == "READ(1,1)"
        assert fails_with(set_stream_size.read) == errno.EAGAIN
        pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
        assert set_stream_size.wait().startswith("ZX_ERR_IO: ")
        assert vmo.path.stat().st_size == 2 * PAGE_SIZE
        assert set_stream_size.say(f"{vmo.name} {2 * PAGE_SIZE}") == "ZX_OK\n"  # unchanged
        assert set_stream_size.say(f"{vmo.name} {2 * PAGE_SIZE + 1}").startswith(f"{errno.ERANGE} ")
        assert not modified(pager, vmo)
        assert set_stream_size.say(f"{vmo.name} {PAGE_SIZE}") == "ZX_OK\n"
    assert vmo.path.stat().st_size == PAGE_SIZE
    assert modified(pager, vmo)
    assert pager.requests.is_quiet()


def test_an_aux_has_no_stream_size(pager: PagerClient) -> None:
    aux = pager.stage(b"x")
    with command_file(pager, "vmo_set_stream_size") as set_stream_size:
        assert set_stream_size.say(f"{aux.name} 1").startswith(f"{errno.EOPNOTSUPP} ZX_ERR_NOT_SUPPORTED: ")


# Writing back meanwhile


def test_end_beyond_the_new_size_cleans_nothing(pager: PagerClient) -> None:
    vmo = pager.create(size=PAGE_SIZE, options="resizable")
    os.truncate(vmo.path, 5 * PAGE_SIZE)
    op(pager, "WRITEBACK_BEGIN", vmo, 1, 4, "is_zero")
    os.truncate(vmo.path, 3 * PAGE_SIZE)
    assert refused_op(pager, "WRITEBACK_END", vmo, 1, 4) == errno.ERANGE
    assert dirty(pager, vmo) == "{1,2,Z}"
    op(pager, "WRITEBACK_END", vmo, 1, 2)
    assert dirty(pager, vmo) == ""


def test_a_writer_whose_page_is_cut_off_fails_or_grows_the_file_again(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE, options="unbounded trap_dirty")
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, command_file(pager, "vmo_set_stream_size") as set_stream_size:
        writer = start_write(fd, 3)
        assert take(pager) == "DIRTY(3,1)"
        assert set_stream_size.say(f"{vmo.name} {PAGE_SIZE}") == "ZX_OK\n"
        assert not writer.done  # the page reads as zeros now, and may be written
        op(pager, "DIRTY", vmo, 3)
        assert writer.result() == PAGE_SIZE
        assert query(pager, vmo, 0, 8 * PAGE_SIZE) == "{3,1}"
