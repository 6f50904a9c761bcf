"""Readers that wait: a thousand of them, those that are killed, and those who only look meanwhile."""

from __future__ import annotations

import os
import platform
import select
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.opening import opened
from tests.support.pager_client import Background, PagerClient, Readers, Vmo
from tests.support.stopwatch import Stopwatch
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand
from vmofs_mount.linux.procfs import process_state

READERS = 1000
KEY = 3 * pattern.KEY_STEP


def read_page(fd: int, page: int) -> Background[bytes]:
    return Background(lambda: os.pread(fd, PAGE_SIZE, page * PAGE_SIZE))


def test_a_thousand_readers_of_distinct_pages_raise_a_thousand_requests(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * READERS * PAGE_SIZE)
    with opened(vmo.path) as fd:
        readers = {page: read_page(fd, page) for page in range(0, 2 * READERS, 2)}
        requests = pager.requests.take(READERS)
        assert {request.offset // PAGE_SIZE for request in requests} == set(readers)
        assert {(request.command, request.length) for request in requests} == {(PacketCommand.READ, PAGE_SIZE)}
        assert pager.stat("requests_outstanding") == READERS == len(pager.pending())
        for request in requests:
            pager.supply(vmo, request.offset, key=KEY)
        for page, reader in readers.items():
            pattern.check(reader.result(), KEY, page * PAGE_SIZE)
    assert pager.read_requests == READERS
    assert pager.stat("requests_outstanding") == 0
    assert pager.requests.is_quiet()


def test_a_thousand_readers_of_one_page_raise_one_request(pager: PagerClient) -> None:
    vmo = pager.create()
    fds = [os.open(vmo.path, os.O_RDONLY) for _ in range(100)]
    try:
        readers = [read_page(fds[number % len(fds)], 0) for number in range(READERS)]
        pager.take_read(vmo, 0)
        wait_for(lambda: all(not reader.done for reader in readers), "all readers wait")
        pager.supply(vmo, key=KEY)
        for reader in readers:
            pattern.check(reader.result(), KEY)
    finally:
        for fd in fds:
            os.close(fd)
    assert pager.read_requests == 1
    assert pager.requests.is_quiet()


def test_processes_that_read_in_different_ways_share_one_request(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create(size=8 * PAGE_SIZE)
    kinds = ("pread", "mmap", "sendfile", "splice", "direct", "mmap", "pread")
    readers = [start(kind, vmo.path, 5 * PAGE_SIZE) for kind in kinds]
    pager.take_read(vmo, 5 * PAGE_SIZE)
    wait_for(lambda: all(reader.is_waiting() for reader in readers), "all readers wait")
    pager.supply(vmo, 5 * PAGE_SIZE, key=KEY)
    for reader in readers:
        data = reader.next()
        assert isinstance(data, bytes)
        pattern.check(data, KEY, 5 * PAGE_SIZE)
    assert pager.read_requests == 1


@pytest.mark.parametrize("kind", ["pread", "mmap", "sendfile", "direct"])
def test_a_reader_that_waits_dies_at_once_by_sigkill(pager: PagerClient, start: Readers, kind: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    reader = start(kind, vmo.path, PAGE_SIZE)
    pager.take_read(vmo, PAGE_SIZE)
    wait_for(reader.is_waiting, "the reader waits")
    assert reader.kill() < 1


@pytest.mark.parametrize("kind", ["pread", "mmap", "sendfile", "direct"])
def test_a_reader_of_a_page_that_a_killed_one_waits_for_can_be_killed_too(
    pager: PagerClient, start: Readers, kind: str
) -> None:
    vmo = pager.create()
    readers = [start(kind, vmo.path, 0) for _ in range(3)]
    pager.take_read(vmo, 0)
    for reader in readers:
        wait_for(reader.is_waiting, "the reader waits")
    for reader in readers:
        assert reader.kill() < 1
    pager.supply(vmo, key=KEY)
    pattern.check(vmo.path.read_bytes(), KEY)
    assert pager.read_requests == 1


@pytest.mark.parametrize("kind", ["pread", "mmap", "sendfile"])
@pytest.mark.parametrize("before", ["pread", "mmap", "sendfile", "direct"])
def test_a_reader_dies_at_once_also_when_the_page_failed_before(
    shared_mount: Mounted, pager: PagerClient, start: Readers, before: str, kind: str
) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    for _ in range(5):
        first = start(before, vmo.path, 2 * PAGE_SIZE)
        pager.take_read(vmo, 2 * PAGE_SIZE)
        pager.fail(vmo, 2 * PAGE_SIZE, PAGE_SIZE)
        first.failure()
        second = start(kind, vmo.path, 2 * PAGE_SIZE)
        pager.take_read(vmo, 2 * PAGE_SIZE)
        wait_for(second.is_blocked, "the reader waits")
        assert second.kill() < 1
        pager.fail(vmo, 0, 4 * PAGE_SIZE)
        # Who comes before that READ is answered waits behind the page's lock, and fails with it.
        wait_for(lambda: shared_mount.counter("held_requests") == 0, "the READ of the dead reader is answered")


def test_a_reader_that_reads_again_at_once_after_a_failure_dies_by_sigkill(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create()
    for _ in range(10):
        reader = start("pread", vmo.path, 0, times=100)
        for _ in range(3):
            pager.take_read(vmo, 0)
            pager.fail(vmo, 0, PAGE_SIZE)
        pager.take_read(vmo, 0)
        wait_for(reader.is_blocked, "the reader waits")
        assert reader.kill() < 1
        pager.fail(vmo, 0, PAGE_SIZE)


@pytest.mark.alone
def test_others_go_on_within_milliseconds_while_readers_wait(shared_mount: Mounted, pager: PagerClient) -> None:
    vmo = pager.create(size=2 * 200 * PAGE_SIZE)
    present = pager.create("present")
    pager.supply(present, key=KEY)
    with opened(vmo.path) as fd, opened(present.path) as other:
        readers = [read_page(fd, page) for page in range(0, 400, 2)]
        pager.requests.take(len(readers))
        looks: dict[str, Callable[[], object]] = {
            "ls": lambda: os.listdir(vmo.path.parent),  # noqa: PTH208 - as ls does it
            "stat": vmo.path.stat,
            "fstat": lambda: os.fstat(fd),
            "stats": (shared_mount.path / "control" / "stats").read_text,
            "pager stats": (pager.control / "stats").read_text,
            "pending": (pager.control / "pending").read_text,
            "command": lambda: pager.command("op_range", f"FAIL {present.name} 0 0 ZX_ERR_IO"),
            "read": lambda: os.pread(other, PAGE_SIZE, 0),
            "write": lambda: pager.aux("x").path.write_bytes(b"x"),
        }
        for name, look in looks.items():
            check_is_quick(name, look, shared_mount.pid)
        assert not any(reader.done for reader in readers)
        pager.fail(vmo, 0, 400 * PAGE_SIZE)
        for reader in readers:
            reader.errno()


def check_is_quick(name: str, look: Callable[[], object], daemon: int) -> None:
    """Check for 10 ms. Others may wake slowly, so one quiet moment is enough for the slowest of several calls.

    What waits for a pager would take for ever, in every round.
    """
    rounds = []
    for _ in range(20):
        seconds = []
        for _ in range(10):
            watch = Stopwatch(daemon)
            look()
            seconds.append(watch.seconds())
        rounds.append(seconds)
        if max(seconds) < 0.01:
            break
    assert min(map(max, rounds)) < 0.01, f"{name}: {rounds}"
    assert statistics.median(map(statistics.median, rounds)) < 0.01, f"{name}: {rounds}"


def test_a_read_over_a_present_page_waits_for_the_others_only(pager: PagerClient) -> None:
    vmo = pager.create(size=3 * PAGE_SIZE)
    pager.supply(vmo, PAGE_SIZE, key=KEY)
    with opened(vmo.path) as fd:
        reader = Background(lambda: os.pread(fd, 3 * PAGE_SIZE, 0))
        pager.take_read(vmo, 0)
        pager.supply(vmo, 0, key=KEY)
        pager.take_read(vmo, 2 * PAGE_SIZE)
        pager.supply(vmo, 2 * PAGE_SIZE, key=KEY)
        pattern.check(reader.result(), KEY)


def test_a_read_of_many_pages_is_one_request(pager: PagerClient) -> None:
    vmo = pager.create(size=32 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        reader = Background(lambda: os.pread(fd, 8 * PAGE_SIZE, 4 * PAGE_SIZE))
        pager.take_read(vmo, 4 * PAGE_SIZE, 8 * PAGE_SIZE)
        pager.supply(vmo, 4 * PAGE_SIZE, 8 * PAGE_SIZE, key=KEY)
        pattern.check(reader.result(), KEY, 4 * PAGE_SIZE)
    assert pager.read_requests == 1


def wait_until_cached(vmo: Vmo, mount: Path) -> None:
    """Wait until nothing is left to be stored in the page cache."""
    wait_for(lambda: "vmofs_pagecache_files_busy 0" in (mount / "control" / "stats").read_text(), vmo.name)


_ASYNCHRONOUS = r"""
import ctypes, mmap, os, sys
IO_SETUP, IO_SUBMIT, PREAD = 206, 209, 0
class Iocb(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("flags", ctypes.c_uint32),
                ("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16), ("fd", ctypes.c_uint32),
                ("buffer", ctypes.c_uint64), ("length", ctypes.c_uint64), ("offset", ctypes.c_int64),
                ("rest", ctypes.c_uint64 * 2)]
libc = ctypes.CDLL(None, use_errno=True)
context, buffer = ctypes.c_ulong(), mmap.mmap(-1, 4096)
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
assert libc.syscall(IO_SETUP, 8, ctypes.byref(context)) == 0
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
block = Iocb(opcode=PREAD, fd=fd, buffer=address, length=4096, offset=int(sys.argv[2]))
blocks = (ctypes.POINTER(Iocb) * 1)(ctypes.pointer(block))
assert libc.syscall(IO_SUBMIT, context, 1, blocks) == 1
print("errno 0", flush=True)
sys.stdin.read() if sys.argv[3] == "killed" else os._exit(0)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
@pytest.mark.parametrize("way", ["killed", "ends"])
def test_a_process_with_asynchronous_reads_under_way_ends_at_once(pager: PagerClient, start: Readers, way: str) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    reader = start.run(_ASYNCHRONOUS, vmo.path, PAGE_SIZE, way)
    pager.take_read(vmo, PAGE_SIZE)
    assert reader.next() == 0
    if way == "killed":
        assert reader.kill() < 1
    else:
        assert reader.process.wait(1) == 0


_HEIR = r"""
import mmap, os, sys
fd, buffer = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
opener = os.getpid()
if os.fork():
    os._exit(0)
try:
    os.preadv(fd, [buffer], 0)
except OSError as error:
    print("errno", error.errno, flush=True)
else:
    print("data", buffer[:].hex(), flush=True)
"""


def test_who_inherited_a_file_reads_on_when_its_opener_has_ended(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create(size=PAGE_SIZE)
    heir = start.run(_HEIR, vmo.path)  # whose opener is a zombie as long as nobody waits for it
    pager.take_read(vmo, 0)
    wait_for(lambda: process_state(heir.process.pid) == "Z", "the opener has ended")
    assert heir.process.stdout is not None
    assert not select.select([heir.process.stdout], [], [], 0.5)[0]  # it is looked ten times a second
    pager.supply_bytes(vmo, b"h" * PAGE_SIZE)
    assert heir.next() == b"h" * PAGE_SIZE
