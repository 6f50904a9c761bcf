"""fsync of a VMO made with ``writeback`` returns when what was dirty is safe; of others it returns at once."""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Readers, Vmo
from tests.support.writing import (
    clean,
    dirty,
    evict,
    mapped,
    op,
    opened,
    page_bytes,
    start_write,
    supply,
    take,
)
from vmofs.units import PAGE_SIZE


def make(pager: PagerClient, pages: int = 8, options: str = "") -> Vmo:
    """Make a VMO whose pager takes part in fsync, all of it supplied."""
    vmo = pager.create(size=pages * PAGE_SIZE, options=f"writeback {options}")
    supply(pager, vmo, 0, pages)
    return vmo


def start_fsync(fd: int) -> Background[None]:
    return Background(lambda: os.fsync(fd))


@pytest.mark.parametrize("options", ["", "trap_dirty"])
def test_without_the_option_fsync_returns_at_once(pager: PagerClient, options: str) -> None:
    vmo = pager.create(size=PAGE_SIZE, options=options)
    supply(pager, vmo)
    if options:
        op(pager, "DIRTY", vmo)
    with opened(vmo.path) as fd:
        os.pwrite(fd, b"x", 0)
        os.fsync(fd)
        os.fdatasync(fd)
    assert dirty(pager, vmo) == "{0,1}"
    assert pager.requests.is_quiet()


def test_fsync_of_what_is_clean_returns_at_once(pager: PagerClient) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        os.fsync(fd)
    assert pager.requests.is_quiet()


@pytest.mark.parametrize("way", ["fsync", "fdatasync", "msync"])
def test_fsync_asks_for_what_is_dirty_and_returns_when_it_was_written_back(pager: PagerClient, way: str) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd, mapped(fd, 8) as mapping:
        os.pwrite(fd, page_bytes(1, 2), PAGE_SIZE)
        mapping.store(5 * PAGE_SIZE, page_bytes(5))
        sync = {"fsync": lambda: os.fsync(fd), "fdatasync": lambda: os.fdatasync(fd), "msync": mapping.msync}[way]
        syncing = Background(sync)
        assert take(pager) == "WRITEBACK(1,2)"
        op(pager, "WRITEBACK_BEGIN", vmo, 1, 2)
        assert not syncing.done
        op(pager, "WRITEBACK_END", vmo, 1, 2)
        assert take(pager) == "WRITEBACK(5,1)"
        assert os.pread(fd, PAGE_SIZE, 5 * PAGE_SIZE) == page_bytes(5)  # the pager reads meanwhile
        clean(pager, vmo, 5)
        syncing.result()
    assert dirty(pager, vmo) == ""


def test_a_pager_may_write_back_everything_at_once(pager: PagerClient) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        for page in (1, 4, 6):
            os.pwrite(fd, b"x", page * PAGE_SIZE)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(1,1)"
        clean(pager, vmo, 0, 8)
        syncing.result()
    assert pager.requests.is_quiet()


def test_end_without_begin_ends_no_fsync(pager: PagerClient) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        os.pwrite(fd, b"x", 0)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,1)"
        op(pager, "WRITEBACK_END", vmo, 0, 8)
        assert pager.pending()
        assert not syncing.done
        clean(pager, vmo, 0)
        syncing.result()


@pytest.mark.parametrize("code", ["ZX_ERR_IO", "ZX_ERR_NO_SPACE"])
def test_a_pager_that_cannot_write_back_fails_fsync_and_the_pages_stay_dirty(pager: PagerClient, code: str) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        os.pwrite(fd, page_bytes(3), 3 * PAGE_SIZE)
        for _ in range(2):
            syncing = start_fsync(fd)
            assert take(pager) == "WRITEBACK(3,1)"
            op(pager, "WRITEBACK_BEGIN", vmo, 3)
            pager.fail(vmo, 3 * PAGE_SIZE, PAGE_SIZE, code)
            assert syncing.errno() == getattr(errno, {"ZX_ERR_IO": "EIO"}.get(code, "ENOSPC"))
            assert dirty(pager, vmo) == "{3,1}"
        assert os.pread(fd, PAGE_SIZE, 3 * PAGE_SIZE) == page_bytes(3)


def test_a_new_size_is_written_back_too(pager: PagerClient) -> None:
    vmo = make(pager, 2, "resizable")
    with opened(vmo.path) as fd:
        os.ftruncate(fd, PAGE_SIZE)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,0)"
        op(pager, "WRITEBACK_BEGIN", vmo, 0, 0)
        assert not syncing.done
        op(pager, "WRITEBACK_END", vmo, 0, 0)
        syncing.result()
        os.fsync(fd)
    assert pager.requests.is_quiet()


def test_zeros_that_are_new_are_waited_for(pager: PagerClient) -> None:
    vmo = make(pager, 1, "resizable")
    with opened(vmo.path) as fd:
        os.ftruncate(fd, 3 * PAGE_SIZE)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(1,2)"
        op(pager, "WRITEBACK_BEGIN", vmo, 1, 2, "is_zero")
        op(pager, "WRITEBACK_END", vmo, 1, 2)
        syncing.result()
    assert dirty(pager, vmo) == ""


@pytest.mark.parametrize("end", ["detach", "close"])
def test_fsync_fails_when_the_pager_goes(pager: PagerClient, end: str) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        os.pwrite(fd, b"x", 0)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,1)"
        if end == "detach":
            pager.command("detach_vmo", vmo.name)
        else:
            pager.stop_reading()
            pager.control.rmdir()
        assert syncing.errno() == errno.EBADFD
        assert start_fsync(fd).errno() == errno.EBADFD  # it is not safe, and never will be


def test_fsync_times_out(pager: PagerClient) -> None:
    vmo = make(pager)
    (pager.control / "deadline").write_text("1\n")
    with opened(vmo.path) as fd:
        os.pwrite(fd, b"x", 0)
        assert start_fsync(fd).errno() == errno.ETIMEDOUT
    assert dirty(pager, vmo) == "{0,1}"


def test_the_next_pager_is_asked_by_those_who_still_wait(pager: PagerClient) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd:
        os.pwrite(fd, b"x", 0)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,1)"
        op(pager, "WRITEBACK_BEGIN", vmo)
        pager.stop_reading()
        assert take(pager) == "WRITEBACK(0,1)"
        clean(pager, vmo, 0)
        syncing.result()


def test_others_read_and_the_pager_supplies_and_evicts_while_fsync_waits(pager: PagerClient) -> None:
    vmo = make(pager)
    with opened(vmo.path) as fd, opened(vmo.path, os.O_RDONLY) as other:
        os.pwrite(fd, b"x", 0)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,1)"
        assert evict(pager, vmo, 4) == 1
        reader = Background(lambda: os.pread(other, PAGE_SIZE, 4 * PAGE_SIZE))
        assert take(pager) == "READ(4,1)"
        supply(pager, vmo, 4)
        reader.result()
        assert os.pread(other, 1, 0) == b"x"
        assert vmo.path.stat().st_size == 8 * PAGE_SIZE
        clean(pager, vmo, 0)
        syncing.result()


def test_a_writer_waits_for_the_fsync_of_another(pager: PagerClient) -> None:
    """The kernel lets one of them at a time: what is written during an fsync is not part of it."""
    vmo = make(pager)
    with opened(vmo.path) as fd, opened(vmo.path) as other:
        os.pwrite(fd, b"x", 0)
        syncing = start_fsync(fd)
        assert take(pager) == "WRITEBACK(0,1)"
        writer = start_write(other, 1)
        clean(pager, vmo, 0)
        syncing.result()
        writer.result()
    assert dirty(pager, vmo) == "{1,1}"


_SYNCER = r"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, b"x", 0)
print("data", b"wrote".hex(), flush=True)
os.fsync(fd)
"""


def test_who_waits_in_fsync_can_be_killed(pager: PagerClient, start: Readers) -> None:
    vmo = make(pager)
    process = start.run(_SYNCER, vmo.path)
    assert process.next() == b"wrote"
    assert take(pager) == "WRITEBACK(0,1)"
    assert process.kill() < 5
    wait_for(lambda: not pager.pending(), "the request is withdrawn")
    assert dirty(pager, vmo) == "{0,1}"


def test_files_made_in_a_served_directory_are_vmos_of_its_pager(pager: PagerClient) -> None:
    directory = pager.mount / "vmo" / pager.name / "served"
    directory.mkdir()
    assert pager.command("serve_directory", f"vmo/{pager.name}/served writeback") == "ZX_OK\n"
    path = directory / "new"
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
        os.pwrite(fd, b"content", 0)
        syncing = start_fsync(fd)
        vmo = Vmo(path, f"vmo/{pager.name}/served/new")
        assert take(pager) == "WRITEBACK(0,1)"
        clean(pager, vmo, 0)
        syncing.result()
    assert vmo.xattr("options") == "resizable,writeback"
    assert path.read_bytes() == b"content"
