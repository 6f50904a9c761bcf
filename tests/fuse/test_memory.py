"""What supplied pages cost: moved, not copied, and given back."""

from __future__ import annotations

import errno
import os
import random
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import Background, PagerClient, Vmo, metric
from vmofs.units import PAGE_SIZE

GIB = 2**30
MIB = 2**20
SNAPSHOTS = 100 if NIGHTLY else 3  # 0.3 s each
CHANGED_PAGES = 1000  # in each of them


def memory_bytes(mount: Mounted, what: str) -> int:
    """Return VmRSS or VmHWM of the daemon."""
    for line in Path(f"/proc/{mount.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(what)


@pytest.mark.slow
def test_a_gibibyte_supplied_by_one_command_is_in_memory_once_and_detach_gives_it_back(mounter: object) -> None:
    mount: Mounted = mounter("memory=0")  # type: ignore[operator]
    pager = PagerClient(mount.path)
    vmo, aux = pager.create(size=GIB), pager.aux("stage")
    fd = os.open(aux.path, os.O_WRONLY | os.O_CREAT)
    block = b"m" * MIB
    for offset in range(0, GIB, MIB):
        os.pwrite(fd, block, offset)
    os.close(fd)
    with vmo.path.open("rb") as reader:
        assert pager.command("supply_pages", f"{vmo.name} 0 1G {aux.name} 0") == "ZX_OK\n"
        reader.seek(GIB - 1)
        assert reader.read(1) == b"m"
        assert memory_bytes(mount, "VmHWM") <= GIB + 64 * MIB
        assert (vmo.path.stat().st_blocks * 512, aux.path.stat().st_blocks) == (GIB, 0)
        pager.command("detach_vmo", vmo.name)
        wait_for(lambda: memory_bytes(mount, "VmRSS") < 64 * MIB, "the memory is given back")
    pager.close()


def test_a_vmo_of_an_exbibyte_costs_what_its_pages_cost(pager: PagerClient, shared_mount: Mounted) -> None:
    before = memory_bytes(shared_mount, "VmRSS")
    vmo = pager.create(size=2**60)
    for page in (0, 2**60 // PAGE_SIZE - 1):
        pager.supply_bytes(vmo, b"e" * PAGE_SIZE, page * PAGE_SIZE)
        fd = os.open(vmo.path, os.O_RDONLY)
        assert os.pread(fd, PAGE_SIZE, page * PAGE_SIZE) == b"e" * PAGE_SIZE
        os.close(fd)
    assert vmo.path.stat().st_blocks == 2 * PAGE_SIZE // 512
    assert memory_bytes(shared_mount, "VmRSS") - before < 4 * MIB


def create_child(pager: PagerClient, kind: str, parent: Vmo, number: int) -> Vmo:
    """Make a child that shows all of its parent."""
    child = pager.vmo(f"child{number}")
    with (pager.mount / "control/vmo_create_child").open("r+b", buffering=0) as file:
        file.write(f"{kind} {parent.name} {child.name} 0 {parent.path.stat().st_size}".encode())
    return child


def write_numbers(vmo: Vmo, pages: list[int], number: int) -> None:
    """Write a number at the start of each page. With O_DIRECT, or the kernel asks for attributes before each write."""
    fd = os.open(vmo.path, os.O_WRONLY | os.O_DIRECT)
    for page in pages:
        os.pwrite(fd, number.to_bytes(8), page * PAGE_SIZE)
    os.close(fd)


def read_number(vmo: Vmo, page: int) -> int:
    """Return the number at the start of a page."""
    with vmo.path.open("rb", buffering=0) as file:
        return int.from_bytes(os.pread(file.fileno(), 8, page * PAGE_SIZE))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["snapshot_at_least_on_write", "snapshot_modified"])
def test_snapshots_of_a_vmo_of_4_gib_cost_the_pages_that_were_changed_in_them(mount: Mounted, kind: str) -> None:
    """On-write ones are all of the VMO; of the others, which share what was changed, each is of the one before."""
    pager = PagerClient(mount.path)
    vmo, nothing = pager.create(size=4 * GIB), pager.stage(b"")
    os.truncate(nothing.path, 4 * GIB)
    pager.command("supply_pages", f"{vmo.name} 0 4G {nothing.name} 0")
    choose, changed, parent = random.Random(2026), {}, vmo  # noqa: S311 - nothing secret
    before, began = memory_bytes(mount, "VmRSS"), time.monotonic()
    for number in range(1, SNAPSHOTS + 1):
        child = create_child(pager, kind, parent, number)
        pages = choose.sample(range(4 * GIB // PAGE_SIZE), CHANGED_PAGES)
        write_numbers(child, pages, number)
        changed[number] = child, pages[0]
        parent = child if kind == "snapshot_modified" else vmo
    seconds, grown = time.monotonic() - began, memory_bytes(mount, "VmRSS") - before
    share = grown / (SNAPSHOTS * CHANGED_PAGES * PAGE_SIZE)
    sys.stderr.write(f"{SNAPSHOTS} x {kind}: {grown / MIB:.1f} MiB, {share:.4f} of the pages, {seconds:.1f} s\n")
    assert 0.9 < share < 1.2
    assert [read_number(*changed[number]) for number in changed] == list(changed)
    assert not any(read_number(vmo, page) for _, page in changed.values())
    pager.close()
    wait_for(lambda: memory_bytes(mount, "VmRSS") < before + 16 * MIB, "the memory is given back")


def _files_busy(mount: Mounted) -> int:
    return metric((mount.path / "control" / "stats").read_text(), "vmofs_pagecache_files_busy")


def test_pages_that_come_and_go_leave_nothing_behind(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    sizes = []
    for _ in range(6):
        vmo = pager.create(size=16 * MIB)
        with vmo.path.open("rb", buffering=0) as file:
            pager.supply_bytes(vmo, b"p" * 16 * MIB)
            assert file.read(PAGE_SIZE) == b"p" * PAGE_SIZE
        vmo.path.unlink()
        wait_for(lambda: pager.stat("vmos") == 0, "the VMO is gone")
        wait_for(lambda: _files_busy(mount) == 0, "nothing is being stored in the page cache")
        sizes.append(memory_bytes(mount, "VmRSS"))
    assert max(sizes[1:]) - sizes[1] < 8 * MIB, sizes
    pager.close()


def _write(vmo: Vmo, data: bytes) -> None:
    with vmo.path.open("r+b", buffering=0) as file:
        file.write(data)


def test_an_idle_daemon_gives_back_what_it_kept_to_be_fast(mount: Mounted) -> None:
    """Free frames, and the buffers of requests, of which there are as many as ever waited at the same time."""
    before = memory_bytes(mount, "VmRSS")
    pager = PagerClient(mount.path)
    pager.stage(b"f" * 16 * MIB).path.unlink()
    vmos = [pager.create(f"v{number}", MIB, "trap_dirty") for number in range(8)]
    writers = [Background(partial(_write, vmo, b"w" * MIB)) for vmo in vmos]
    wait_for(lambda: pager.stat("requests_outstanding") == len(vmos), "all writers wait for the pager")
    assert memory_bytes(mount, "VmRSS") > before + (4 + 8) * MIB
    pager.close()
    assert {writer.errno() for writer in writers} == {errno.EBADFD}
    wait_for(lambda: memory_bytes(mount, "VmRSS") < before + 2 * MIB, "the memory is given back")


def test_an_aux_that_is_open_while_its_pages_move_is_forgotten_when_it_is_closed(mount: Mounted) -> None:
    """The daemon looks, when it ends, whether anything is left that should be gone."""
    pager = PagerClient(mount.path)
    vmo, aux = pager.create(size=PAGE_SIZE), pager.aux("stage")
    with aux.path.open("wb+", buffering=0) as file:
        file.write(b"a" * PAGE_SIZE)
        assert pager.command("supply_pages", f"{vmo.name} 0 4K {aux.name} 0") == "ZX_OK\n"
        assert os.pread(file.fileno(), 1, 0) == b"\0"
    aux.path.unlink()
    pager.close()
    mount.umount()
    assert mount.process.wait(10) == 0, mount.log()


def test_an_aux_shows_at_once_that_pages_were_taken_however_long_nobody_looked(pager: PagerClient) -> None:
    vmo, aux = pager.create(size=4 * PAGE_SIZE), pager.aux("a")
    aux.path.parent.mkdir(exist_ok=True)
    with aux.path.open("wb", buffering=0) as file:
        for page, looks in enumerate([True, False, False, True]):
            os.pwrite(file.fileno(), bytes(PAGE_SIZE), 0)
            if looks:
                assert os.fstat(file.fileno()).st_blocks == PAGE_SIZE // 512
            pager.command("supply_pages", f"{vmo.name} {page * PAGE_SIZE} {PAGE_SIZE} {aux.name} 0")
            if page != 1:  # then nobody has looked since the page before the last
                assert os.fstat(file.fileno()).st_blocks == aux.path.stat().st_blocks == 0
