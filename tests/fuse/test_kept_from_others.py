"""What one user has locked in the kernel, in less obvious ways: others go on, and have what they read."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_behind_a_read import Crowd
from tests.fuse.test_shared_waiting import (
    clean,
    list_into_what_is_not_there,
    make_and_remove,
    make_pager,
)
from tests.support.identity import Actor, reachable_mount
from tests.support.mounted import Mounted, wait_for
from tests.support.two_users import OTHER
from vmofs.units import PAGE_SIZE

SECONDS = 5.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount("deadline=0") as mounted:
        yield mounted


def waiting(mounted: Mounted, pager: str) -> int:
    return (mounted.path / "control" / pager / "pending").read_bytes().count(b"\n")


# Whose READs are let go


def answer_slowly(mount: str) -> None:
    """Be a pager. Returns at once."""

    def answer() -> None:
        with open(f"{mount}/control/honest/requests", "rb") as requests:  # noqa: PTH123
            for line in requests:
                time.sleep(0.1)
                os.pwrite(into, b"." * PAGE_SIZE, int(line.split()[2]))

    into = os.open(f"{mount}/control/honest/supply/honest0", os.O_WRONLY)
    threading.Thread(target=answer, daemon=True).start()


def use_pages(path: str, count: int) -> list[str]:
    """Read and write to pages that are missing; say what came of each, and how often a write was interrupted."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd, results = os.open(path, os.O_RDWR), []
    for page in range(0, count, 2):
        results.append(os.pread(fd, 1, page * PAGE_SIZE).decode())
        while libc.pwrite(fd, b"w", ctypes.c_size_t(1), ctypes.c_long((page + 1) * PAGE_SIZE)) < 0:
            results.append(errno.errorcode[ctypes.get_errno()])
    os.close(fd)
    return results


def keep_listing(path: Path) -> None:
    while True:
        list_into_what_is_not_there(str(path), f"{path}/lister0")
        time.sleep(0.02)


def keep_making(path: Path) -> None:
    while True:
        make_and_remove(f"{path}/mine")


def test_who_waits_is_not_interrupted_because_another_user_keeps_the_directory_locked(
    mounted: Mounted, hostile: Actor, other: Actor
) -> None:
    mount, crowd, pager = str(mounted.path), Crowd(), Actor(OTHER)
    try:
        hostile(make_pager, mount, "lister", 1, PAGE_SIZE)
        other(make_pager, mount, "honest", 1, 16 * PAGE_SIZE)
        pager(answer_slowly, mount)
        crowd.start(keep_listing, mounted.path / "vmo")
        crowd.start(keep_making, mounted.path / "vmo")
        wait_for(lambda: waiting(mounted, "lister") > 0, "the directory is locked")
        began = time.monotonic()
        results = other(use_pages, f"{mount}/vmo/honest0", 16)
        assert time.monotonic() - began < SECONDS
        assert results == ["."] * 8, "his writes were interrupted"
    finally:
        crowd.kill()
        pager.close()
        for owner in ("lister", "honest"):
            clean(mounted, owner)
        wait_for(crowd.reap, "all have ended")
