"""Supplying bytes without an aux: Pager.supply_bytes, for files of ``supply/``."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from vmofs.core.pages.states import PageState
from vmofs.status import BadStateError, InvalidArgsError, NoMemoryError, OutOfRangeError
from vmofs.units import PAGE_SIZE, PageRange

P = PAGE_SIZE


def test_bytes_fill_gaps_and_wake_readers(world: World) -> None:
    vmo = world.vmo(8)
    read = vmo.read(2 * P, P)
    assert not read.start(0)
    assert world.pager.supply_bytes(vmo, P, b"a" * 3 * P) == [PageRange(1, 4)]
    assert world.system.run_ready(0) == [read]
    assert read.result() == b"a" * P


def test_bytes_never_overwrite_what_is_present(world: World) -> None:
    vmo = world.vmo(4)
    world.pager.supply_bytes(vmo, P, b"a" * P)
    assert world.pager.supply_bytes(vmo, 0, b"b" * 3 * P) == [PageRange(0, 1), PageRange(2, 3)]
    assert vmo.read_nowait(0, 4 * P) is None
    assert bytes(vmo.read_nowait(0, 3 * P) or b"") == b"b" * P + b"a" * P + b"b" * P
    assert world.system.frames.statistics().used == 3


def test_the_last_page_may_be_short_and_is_filled_with_zeros(world: World) -> None:
    vmo = world.vmo(size=P + 10)
    world.pager.supply_bytes(vmo, P, b"x" * 10)
    assert bytes(vmo.read_nowait(P, P) or b"") == b"x" * 10 + bytes(P - 10)


def test_bytes_are_pages_and_never_markers(world: World) -> None:
    vmo = world.vmo(1)
    world.pager.supply_bytes(vmo, 0, bytes(P))
    assert vmo.state_at(0) is PageState.CLEAN


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [(1, P, InvalidArgsError), (4 * P, P, OutOfRangeError), (3 * P, P + 1, OutOfRangeError)],
)
def test_bytes_that_do_not_fit_change_nothing(world: World, offset: int, length: int, error: type[Exception]) -> None:
    vmo = world.vmo(4)
    with pytest.raises(error):
        world.pager.supply_bytes(vmo, offset, bytes(length))
    assert world.system.frames.statistics().used == 0


def test_bytes_for_a_detached_vmo_or_of_another_pager_are_refused(world: World) -> None:
    vmo = world.vmo(4)
    world.pager.detach_vmo(vmo)
    with pytest.raises(BadStateError):
        world.pager.supply_bytes(vmo, 0, bytes(P))
    with pytest.raises(InvalidArgsError):
        world.pager.supply_bytes(world.aux(0, 1), 0, bytes(P))


def test_bytes_beyond_the_memory_limit_change_nothing() -> None:
    world = World(limit_pages=2)
    vmo = world.vmo(4)
    with pytest.raises(NoMemoryError):
        world.pager.supply_bytes(vmo, 0, bytes(3 * P))
    assert vmo.committed_pages == 0
    world.check()
