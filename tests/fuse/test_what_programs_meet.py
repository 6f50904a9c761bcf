"""What the kernel makes of hints, locks and watches on pages that a pager has to bring: as SEMANTICS.md says."""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.pager_client import PagerClient, Readers, Requests, Vmo
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.inotify import _LIBC

P = PAGE_SIZE

_MAPS = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
how, fd = sys.argv[1], os.open(sys.argv[2], os.O_RDONLY)
size = os.fstat(fd).st_size
if how == "POSIX_FADV_SEQUENTIAL":
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
MAP_SHARED, MAP_POPULATE = 1, 0x8000
address = libc.mmap(None, size, 1, MAP_SHARED | (MAP_POPULATE if how == "MAP_POPULATE" else 0), fd, 0)
result = 0
if how == "mlock":
    result = libc.mlock(ctypes.c_void_p(address), size)
elif how.startswith("MADV"):
    advice = {"MADV_WILLNEED": 3, "MADV_HUGEPAGE": 14, "MADV_POPULATE_READ": 22}[how]
    result = libc.madvise(ctypes.c_void_p(address), size, advice)
if how not in ("MADV_WILLNEED", "MADV_POPULATE_READ", "mlock", "MAP_POPULATE"):
    ctypes.string_at(address + 10 * 4096, 1)
print("errno", ctypes.get_errno() if result else 0, flush=True)
"""


def failing(pager: PagerClient, vmo: Vmo, requests: Requests) -> None:
    """Fail the next request."""
    request = requests.next()
    pager.fail(vmo, request.offset, request.length)


@pytest.mark.parametrize("how", ["MAP_POPULATE", "mlock"])
def test_who_populates_a_page_that_fails_tries_for_ever_and_can_be_killed(
    pager: PagerClient, start: Readers, how: str
) -> None:
    """So the kernel does it, with any filesystem that fails a read: mlock of a local file on a bad disk is the same."""
    vmo = pager.create()
    process = start.run(_MAPS, how, vmo.path)
    for _ in range(20):
        failing(pager, vmo, pager.requests)
    assert process.process.poll() is None
    assert process.kill() < 2


def test_madv_populate_read_of_a_page_that_fails_is_efault(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create()
    process = start.run(_MAPS, "MADV_POPULATE_READ", vmo.path)
    failing(pager, vmo, pager.requests)
    assert process.failure() == errno.EFAULT


def asked(pager: PagerClient, start: Readers, how: str) -> list[tuple[int, int]]:
    """Return which pages of 64 are asked for, all of which are supplied."""
    vmo = pager.create(how, size=64 * P)
    process = start.run(_MAPS, how, vmo.path)
    found = []
    while process.process.poll() is None or not pager.requests.is_quiet():
        if pager.requests.fill(0.05):
            request = pager.requests.next()
            found.append((request.offset // P, request.length // P))
            pager.supply(vmo, request.offset, request.length)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="read-ahead is the kernel's there")
def test_hints_change_what_the_kernel_asks_for(pager: PagerClient, start: Readers) -> None:
    assert asked(pager, start, "none") == [(10, 1)]
    assert asked(pager, start, "MADV_WILLNEED") == [(0, 32)]
    assert sum(pages for _, pages in asked(pager, start, "POSIX_FADV_SEQUENTIAL")) == 2


_IN_ALL = 0xFFF


def test_inotify_does_not_tell_of_what_a_pager_changes(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * P, options="resizable")
    watch = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _LIBC.inotify_add_watch(watch, os.fsencode(vmo.path), _IN_ALL) >= 0
        pager.supply(vmo, 0, 2 * P)
        with (pager.mount / "control/vmo_set_stream_size").open("w") as commands:
            commands.write(f"{vmo.name} {P}\n")
        pager.command("evict", f"{vmo.name} 0 {2 * P}")
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        os.truncate(vmo.path, 0)  # what a program changes it does tell of
        assert os.read(watch, 4096)
    finally:
        os.close(watch)
