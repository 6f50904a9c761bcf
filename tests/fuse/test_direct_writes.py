"""Asynchronous direct writes beside readers of the page cache: xfstests' generic/451, for libaio and io_uring.

``VMOFS_NIGHTLY=1`` tries it for a minute each.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

import pytest

from tests.conftest import NIGHTLY
from tests.support import stale_reads
from tests.support.asynchronous import WAYS, Buffer, Libaio
from tests.support.pager_client import Background, PagerClient, Vmo
from tests.support.writing import mapped, op, opened, take
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE
SECONDS = {"libaio": 2.0, "io_uring": 4.0}
"""By io_uring the kernel sends three requests for each write, one after the other: fewer writes in the same time."""
SOON = 1.5
SIZE = stale_reads.PAGES * P


def made(pager: PagerClient, kind: str) -> Vmo:
    if kind == "aux":
        return pager.stage(bytes(SIZE), "a")
    vmo = pager.create(size=SIZE)
    pager.supply_bytes(vmo, bytes(SIZE))
    return vmo


@pytest.mark.parametrize("kind", ["aux", "vmo"])
@pytest.mark.parametrize("way", list(WAYS))
def test_nobody_reads_what_was_there_before_an_asynchronous_direct_write(
    pager: PagerClient, kind: str, way: str
) -> None:
    found = stale_reads.run(made(pager, kind).path, 60.0 if NIGHTLY else SECONDS[way], way)
    sys.stdout.write(f"{kind} {way}: {found}\n")
    assert found.writes > 0
    assert found.stale == 0


def test_a_direct_write_does_not_wait_for_a_reader_who_waits_for_the_pager(pager: PagerClient) -> None:
    """His READ has one page of what is written and one that is absent; what he gets is what was written."""
    vmo = pager.create(size=4 * P, options="trap_dirty")
    pager.supply_bytes(vmo, b"o" * P)
    buffer = Buffer(P)
    buffer.memory[:] = b"n" * P
    with opened(vmo.path, os.O_RDONLY) as fd, opened(vmo.path, os.O_RDWR | os.O_DIRECT) as direct:
        writer = Background(lambda: Libaio().write(direct, buffer, P, 0))
        assert take(pager) == "DIRTY(0,1)"
        reader = Background(lambda: os.pread(fd, 2 * P, 0))
        assert take(pager) == "READ(1,1)"
        op(pager, "DIRTY", vmo)
        assert writer.result(SOON) == P
        pager.supply_bytes(vmo, b"s" * P, P)
        assert reader.result() == b"n" * P + b"s" * P
        assert os.pread(fd, P, 0) == b"n" * P


@pytest.mark.parametrize("kind", ["aux", "vmo"])
def test_what_is_stored_through_a_mapping_of_an_open_file_that_is_direct_is_written_back(
    pager: PagerClient, kind: str
) -> None:
    """It comes as a WRITE of that open file, whose page the kernel holds: only the first may take some time."""
    file = made(pager, kind)
    with opened(file.path, os.O_RDWR | os.O_DIRECT) as fd, mapped(fd, 4) as mapping:
        mapping.store(0, b"1" * P)
        mapping.msync()
        began = time.monotonic()
        for page in range(4):
            mapping.store(page * P, b"2" * P)
            mapping.msync()
        assert time.monotonic() - began < SOON
        buffer = mmap.mmap(-1, 4 * P)
        assert os.preadv(fd, [buffer], 0) == 4 * P
        assert buffer[:] == b"2" * 4 * P
