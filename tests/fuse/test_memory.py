"""What supplying much costs in memory, and that it is given back."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.mounted import Mounted, wait_for
from tests.pager_client import PagerClient
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

KEY = 19 * pattern.KEY_STEP
GIB = 2**30
MIB = 2**20


def memory_of(pid: int, name: str) -> int:
    """Return a value of /proc/PID/status in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.mark.slow
def test_supplying_a_gibibyte_moves_it_and_detaching_gives_it_back(mount: Mounted) -> None:
    available = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    if not available or int(available[1]) * 1024 < 4 * GIB:
        pytest.skip("this machine has too little memory")
    pager = PagerClient(mount.path)
    vmo, aux = pager.create(size=GIB), pager.aux("much")
    block = pattern.make(KEY, 0, MIB)
    with aux.path.open("wb", buffering=0) as file:
        for _ in range(GIB // MIB):
            file.write(block)
    assert memory_of(mount.pid, "VmHWM") < GIB + 64 * MIB
    assert pager.command("supply_pages", f"{vmo.name} 0 1G {aux.name} 0") == "ZX_OK\n"
    assert (aux.path.stat().st_blocks, vmo.path.stat().st_blocks) == (0, GIB // 512)
    with vmo.path.open("rb", buffering=0) as file:
        for offset in (0, GIB // 2, GIB - MIB):
            assert os.pread(file.fileno(), MIB, offset) == block
    assert memory_of(mount.pid, "VmHWM") < GIB + 64 * MIB
    pager.command("detach_vmo", vmo.name)
    wait_for(lambda: memory_of(mount.pid, "VmRSS") < 80 * MIB, "the memory is given back")
    pager.close()


def test_pages_that_come_and_go_leave_nothing_behind(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    sizes = []
    for _ in range(6):
        vmo = pager.create(size=16 * MIB)
        with vmo.path.open("rb", buffering=0) as file:
            pager.supply(vmo, 0, 16 * MIB, key=KEY)
            pattern.check(file.read(PAGE_SIZE) or b"", KEY)
        vmo.path.unlink()
        wait_for(lambda: pager.stat("vmos") == 0, "the VMO is gone")
        sizes.append(memory_of(mount.pid, "VmRSS"))
    assert max(sizes[1:]) - sizes[1] < 8 * MIB, sizes
    pager.close()


def test_a_vmo_of_an_exbibyte_has_pages_at_both_ends(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    size = 2**60
    vmo = pager.create(size=size)
    pager.supply(vmo, 0, key=KEY)
    pager.supply(vmo, size - PAGE_SIZE, key=KEY)
    with vmo.path.open("rb", buffering=0) as file:
        for offset in (0, size - PAGE_SIZE):
            pattern.check(os.pread(file.fileno(), PAGE_SIZE, offset), KEY, offset)
    assert vmo.path.stat().st_blocks == 16
    assert pager.read_requests == 0
    pager.command("detach_vmo", vmo.name)
    pager.close()
