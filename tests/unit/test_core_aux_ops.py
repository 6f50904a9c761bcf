"""zx_vmo_op_range and pins on a VMO without a pager (zircon-pager 2.11)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.dirty_harness import P
from vmofs.core.operations import op_range
from vmofs.core.vmos.aux import AuxVmo
from vmofs.status import BadStateError, NoMemoryError, NotSupportedError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import UINT64_MAX, PageRange
from vmofs.vocabulary import AuxKind, VmoOp


def do(world: World, op: VmoOp, aux: AuxVmo, offset: int, length: int) -> None:
    """Carry out an operation, which never waits."""
    world.start(op_range(op, aux, offset, length)).result()


@pytest.mark.parametrize("op", [VmoOp.COMMIT, VmoOp.DECOMMIT, VmoOp.ZERO, VmoOp.PREFETCH])
@pytest.mark.parametrize(("offset", "length"), [(4 * P, 1), (0, 4 * P + 1), (UINT64_MAX, 1)])
def test_a_range_outside_is_out_of_range(world: World, op: VmoOp, offset: int, length: int) -> None:
    aux = world.aux(0, 4)
    with pytest.raises(OutOfRangeError):
        do(world, op, aux, offset, length)
    assert aux.committed_pages == 4


@pytest.mark.parametrize("op", [VmoOp.ALWAYS_NEED, VmoOp.DONT_NEED])
def test_hints_are_always_ok_and_not_even_their_range_is_looked_at(world: World, op: VmoOp) -> None:
    do(world, op, world.aux(0, 1), 100 * P, 100 * P)


def test_commit_allocates_and_keeps_what_is_there(world: World) -> None:
    aux = AuxVmo(world.system, 4 * P)
    aux.write_nowait(P, b"here")
    do(world, VmoOp.COMMIT, aux, P + 1, P)
    assert aux.committed_pages == 2
    assert bytes(aux.read_nowait(P, P)) == b"here" + bytes(P - 4)


def test_commit_without_memory_changes_nothing() -> None:
    world = World(limit_pages=2)
    aux = AuxVmo(world.system, 4 * P)
    with pytest.raises(NoMemoryError):
        do(world, VmoOp.COMMIT, aux, 0, 3 * P)
    assert aux.committed_pages == 0
    world.check()


def test_decommit_frees_whole_pages_rounded_outward(world: World) -> None:
    aux = world.aux(0, 4)
    do(world, VmoOp.DECOMMIT, aux, P + 8, P)
    assert aux.committed_pages == 2
    assert bytes(aux.read_nowait(P, 2 * P)) == bytes(2 * P)
    pattern.check_pages(aux.read_nowait(3 * P, P), KEY, PageRange(3, 4))


def test_decommit_of_pinned_pages_is_bad_state_until_the_last_pin_is_lifted(world: World) -> None:
    aux = world.aux(0, 4)
    pins = [aux.pin(2 * P, P) for _ in range(2)]
    for pin in pins:
        with pytest.raises(BadStateError, match="pinned"):
            do(world, VmoOp.DECOMMIT, aux, 0, 4 * P)
        pin.unpin()
    do(world, VmoOp.DECOMMIT, aux, 0, 4 * P)
    assert aux.committed_pages == 0


def test_a_pin_commits_and_keeps_the_size(world: World) -> None:
    aux = AuxVmo(world.system, 4 * P)
    pin = aux.pin(P, 2 * P)
    assert (aux.committed_pages, pin.pages) == (2, PageRange(1, 3))
    with pytest.raises(BadStateError):
        aux.set_size(2 * P)
    pin.unpin()
    aux.set_size(2 * P)


def test_zero_frees_whole_pages_and_overwrites_parts(world: World) -> None:
    aux = world.aux(0, 4)
    do(world, VmoOp.ZERO, aux, P - 8, 2 * P + 16)
    assert aux.committed_pages == 2
    data = bytes(aux.read_nowait(0, 4 * P))
    assert data[P - 8 : 3 * P + 8] == bytes(2 * P + 16)
    pattern.check(data[: P - 8], KEY)
    pattern.check(data[3 * P + 8 :], KEY, 3 * P + 8)


def test_zero_within_a_page_overwrites_only_that(world: World) -> None:
    aux = world.aux(0, 1)
    do(world, VmoOp.ZERO, aux, 8, 16)
    data = bytes(aux.read_nowait(0, P))
    assert data[8:24] == bytes(16)
    pattern.check(data[:8], KEY)
    pattern.check(data[24:], KEY, 24)
    do(world, VmoOp.ZERO, aux, 100, 0)
    assert bytes(aux.read_nowait(0, P)) == data


def test_zero_keeps_the_memory_of_pinned_pages(world: World) -> None:
    aux = world.aux(0, 4)
    aux.pin(P, P)
    do(world, VmoOp.ZERO, aux, 0, 4 * P)
    assert aux.committed_pages == 1
    assert bytes(aux.read_nowait(0, 4 * P)) == bytes(4 * P)


@pytest.mark.parametrize("kind", [AuxKind.CONTIGUOUS, AuxKind.PHYSICAL])
def test_special_memory_is_not_decommitted_but_zeroed_in_place(world: World, kind: AuxKind) -> None:
    aux = AuxVmo(world.system, 2 * P, kind)
    aux.write_nowait(0, b"x" * 2 * P)
    with pytest.raises(NotSupportedError):
        do(world, VmoOp.DECOMMIT, aux, 0, P)
    do(world, VmoOp.ZERO, aux, 0, 2 * P)
    assert aux.committed_pages == 2
    assert bytes(aux.read_nowait(0, 2 * P)) == bytes(2 * P)


def test_prefetch_does_nothing(world: World) -> None:
    aux = AuxVmo(world.system, 2 * P)
    do(world, VmoOp.PREFETCH, aux, 0, 2 * P)
    assert aux.committed_pages == 0
