"""As many requests as there are threads, and as large a VMO as there can be."""

from __future__ import annotations

import os
import sys
import threading
import time

from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import Background, PagerClient
from tests.support.pager_process import PagerProcess
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE

KEY = 13 * pattern.KEY_STEP
THREADS = 10_000
STACK_BYTES = 128 * 1024


def test_ten_thousand_threads_wait_for_a_page_each(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=2 * THREADS * PAGE_SIZE)
    fd = os.open(vmo.path, os.O_RDONLY)
    wrong: list[int] = []

    def read(page: int) -> None:
        offset = 2 * page * PAGE_SIZE
        if os.pread(fd, PAGE_SIZE, offset) != pattern.make(KEY, offset, PAGE_SIZE):
            wrong.append(page)

    before = threading.stack_size(STACK_BYTES)
    began = time.monotonic()
    try:
        threads = [threading.Thread(target=read, args=(page,), daemon=True) for page in range(THREADS)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    wait_for(lambda: pager.stat("requests_outstanding") == THREADS, "all requests are outstanding", 60)
    waiting = time.monotonic()
    assert len(pager.pending()) == THREADS
    server = PagerProcess(pager.control, KEY)
    for thread in threads:
        thread.join(60)
    ended = time.monotonic()
    server.kill()
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert pager.stat("requests_outstanding") == 0
    sys.stderr.write(f"{THREADS} wait after {waiting - began:.1f} s, all answered after {ended - waiting:.1f} s more\n")
    os.close(fd)
    pager.close()


def test_a_vmo_of_8_eib_has_pages_at_both_ends(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=MAX_VMO_BYTES)
    assert vmo.path.stat().st_size == 2**63 - PAGE_SIZE
    last = MAX_VMO_BYTES - PAGE_SIZE
    with vmo.path.open("rb", buffering=0) as file:
        for offset in (0, last):
            reader = Background(lambda offset=offset: os.pread(file.fileno(), PAGE_SIZE, offset))  # type: ignore[misc]
            pager.take_read(vmo, offset)
            pager.supply(vmo, offset, key=KEY)
            pattern.check(reader.result(), KEY, offset)
        assert len(os.pread(file.fileno(), 4, MAX_VMO_BYTES - 2)) == 2
    assert vmo.path.stat().st_blocks == 2 * PAGE_SIZE // 512
    pager.command("evict", f"{vmo.name} 0 {MAX_VMO_BYTES}")
    assert vmo.path.stat().st_blocks == 1
    pager.close()
