"""The memory limit: what is over it goes and is asked for again, nothing that cannot be had again is ever lost."""

from __future__ import annotations

import errno
import os
import random
import sys
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.mounted import Mounted, Mounter, wait_for
from tests.support.pager_client import Background, PagerClient, metric
from tests.support.pager_process import PagerProcess
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

MIB = 2**20
KEY = 5 * pattern.KEY_STEP
LIMIT = (64 if NIGHTLY else 4) * MIB


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def stat(mount: Mounted, name: str) -> int:
    return metric((mount.path / "control" / "stats").read_text(), f"vmofs_{name}")


def test_a_read_of_more_than_the_limit_ends_although_what_it_has_copied_is_evicted(mounter: Mounter) -> None:
    pages = 32  # one READ
    mount = mounter(f"deadline=20,memory_limit={pages // 2 * PAGE_SIZE}")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=pages * PAGE_SIZE)
    with vmo.path.open("rb", buffering=0) as file:
        reader = Background(lambda: os.pread(file.fileno(), pages * PAGE_SIZE, 0))
        requests = 0
        while not reader.done:
            if pager.requests.fill(0.1):
                request = pager.requests.next()
                requests += 1
                assert requests < pages, "it is for ever about to ask for what it had"
                for offset in range(request.offset, request.offset + request.length, PAGE_SIZE):
                    pager.supply_bytes(vmo, pattern.make(0, offset, PAGE_SIZE), offset)
        assert reader.result() == pattern.make(0, 0, pages * PAGE_SIZE)
    assert stat(mount, "evicted_pages_total") >= pages // 2
    pager.close()


def test_a_working_set_of_four_times_the_limit_is_read_right_within_the_limit(mounter: Mounter) -> None:
    mount = mounter(f"memory_limit={LIMIT}")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=4 * LIMIT)
    pages = 4 * LIMIT // PAGE_SIZE
    random_numbers = random.Random(2026)  # noqa: S311 - nothing secret
    server = PagerProcess(pager.control, KEY).wait_open()
    touched, largest = set(), 0
    with vmo.path.open("rb", buffering=0) as file:
        for number in range(3 * pages):
            page = random_numbers.randrange(pages)
            touched.add(page)
            pattern.check(os.pread(file.fileno(), PAGE_SIZE, page * PAGE_SIZE), KEY, page * PAGE_SIZE)
            if number % 256 == 0:
                largest = max(largest, resident_bytes(mount.pid))
        server.kill()
        present = os.fstat(file.fileno()).st_blocks * 512 // PAGE_SIZE
    supplied = pager.stat("pages_supplied_total")
    evicted, refaulted = stat(mount, "evicted_pages_total"), stat(mount, "refaulted_pages_total")
    sys.stderr.write(
        f"{3 * pages} reads of {pages} pages, {supplied} supplied, {evicted} evicted, {refaulted} refaulted, "
        f"limit {LIMIT // MIB} MiB, resident {largest / MIB:.1f} MiB\n"
    )
    assert stat(mount, "frames_peak") <= LIMIT // PAGE_SIZE
    assert largest <= LIMIT + 64 * MIB
    assert refaulted == supplied - len(touched) > 0
    assert evicted == supplied - present
    pager.close()


def test_when_nothing_can_be_evicted_writes_to_aux_files_fail_and_nothing_is_lost(mounter: Mounter) -> None:
    mount = mounter("memory_limit=1M")
    pager = PagerClient(mount.path)
    kept = pager.create("kept", MIB // 2, "noevict")
    pager.supply(kept, 0, MIB // 2, key=KEY)
    gone = pager.create("gone", MIB // 2)
    pager.supply(gone, 0, MIB // 2, key=KEY)
    with pager.aux("big").path.open("wb", buffering=0) as aux:
        assert aux.write(pattern.make(KEY, 0, MIB // 2)) == MIB // 2
        with pytest.raises(OSError, match="No space") as caught:
            aux.write(b"x")
        assert caught.value.errno == errno.ENOSPC
    assert stat(mount, "evicted_pages_total") == MIB // 2 // PAGE_SIZE
    assert gone.path.stat().st_blocks == 1
    pattern.check(kept.path.read_bytes(), KEY)
    pattern.check(pager.aux("big").path.read_bytes(), KEY)
    # A supply moves pages: it needs no memory.
    assert pager.command("supply_pages", f"{gone.name} 0 {MIB // 2} {pager.aux('big').name} 0") == "ZX_OK\n"
    pattern.check(gone.path.read_bytes(), KEY)
    pager.close()


def test_what_was_written_is_not_evicted_and_a_full_memory_fails_further_writes(mounter: Mounter) -> None:
    mount = mounter("memory_limit=1M")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=2 * MIB)
    for offset in range(0, MIB, MIB // 4):
        pager.supply(vmo, offset, MIB // 4, key=KEY)
        with vmo.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"mine", offset)
            os.pwrite(file.fileno(), pattern.make(KEY, offset + 8, MIB // 4 - 8), offset + 8)
    with pytest.raises(OSError, match="No space"):
        pager.stage(b"x")
    with vmo.path.open("rb", buffering=0) as file:
        data = file.read(MIB)
    for offset in range(0, MIB, MIB // 4):
        assert data[offset : offset + 4] == b"mine"
        pattern.check(data[offset + 8 : offset + MIB // 4], KEY, offset + 8)
    pager.close()


def test_evicted_pages_leave_the_page_cache(mounter: Mounter) -> None:
    mount = mounter("memory_limit=1M")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=MIB)
    with vmo.path.open("rb", buffering=0) as file:
        pager.supply(vmo, 0, MIB, key=1)
        pattern.check(os.pread(file.fileno(), MIB, 0), 1)
        # What is just being stored into the page cache keeps its memory until it is.
        wait_for(lambda: stat(mount, "pagecache_files_busy") == 0, "the pages are stored")
        pager.stage(bytes(MIB)).path.unlink()
        assert stat(mount, "evicted_pages_total") == MIB // PAGE_SIZE
        pager.supply(vmo, 0, MIB, key=2)
        wait_for(lambda: os.pread(file.fileno(), MIB, 0) == pattern.make(2, 0, MIB), "the new pages are seen")
    pager.close()
