"""Zeroing pages that have frames: whole ones cost nothing, whatever their number."""

from __future__ import annotations

import time

import pytest

from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import AuxKind


@pytest.mark.parametrize(
    ("start", "end"), [(10, 20), (100, 4096), (0, 4096), (4000, 12300), (4096, 16384), (5000, 8000), (0, 20480)]
)
def test_contiguous_memory_is_zeroed_in_place(start: int, end: int) -> None:
    system = System()
    aux = AuxVmo(system, 0, AuxKind.CONTIGUOUS)
    data = bytes(range(1, 251)) * 82
    aux.write_nowait(0, data[: 5 * PAGE_SIZE])
    aux.op_zero(start, end - start)
    expected = bytearray(data[: 5 * PAGE_SIZE])
    expected[start:end] = bytes(end - start)
    assert bytes(aux.read_nowait(0, 5 * PAGE_SIZE)) == expected
    assert aux.committed_pages == 5
    system.check()


def test_zeroing_gigabytes_takes_no_time() -> None:
    system = System()
    aux = AuxVmo(system, 8 * 2**30, AuxKind.CONTIGUOUS)
    aux.commit(0, 8 * 2**30)
    began = time.process_time()
    aux.op_zero(1, 8 * 2**30 - 2)
    assert time.process_time() - began < 0.5
    system.frames.check(list(aux.node.runs.frames()))
