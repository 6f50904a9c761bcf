"""Supplying from members of families (zircon-pager 2.4 step 6; children make an aux BAD_STATE, INTERFACE.md 5)."""

from __future__ import annotations

import pytest
import xxhash

from tests.oracle.world import World
from tests.support.children_harness import (
    MODIFIED,
    P,
    aux_view,
    clone,
    reference,
    shows,
    slice_of,
    snapshot,
    used,
    write,
    zero,
)
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import (
    AccessDeniedError,
    BadStateError,
    InvalidArgsError,
    IoDataIntegrityError,
    IoError,
    NoMemoryError,
    NotSupportedError,
    OutOfRangeError,
)
from vmofs.units import PageRange
from vmofs.vocabulary import AuxKind, ChildKind


@pytest.mark.parametrize("kind", [ChildKind.SNAPSHOT, ChildKind.REFERENCE])
def test_an_aux_that_has_children_is_bad_state_until_they_are_closed(world: World, kind: ChildKind) -> None:
    aux, target = world.aux(0, 4), world.vmo()
    child = create_child(aux, kind, 0, 0)
    with pytest.raises(BadStateError, match="children"):
        world.pager.supply_pages(target, 0, 4 * P, aux, 0)
    child.close()
    assert world.pager.supply_pages(target, 0, 4 * P, aux, 0) == [PageRange(0, 4)]


def test_a_snapshot_gives_its_pages_and_the_others_keep_what_they_saw(world: World) -> None:
    aux, target = world.aux(0, 4), world.vmo()
    child = snapshot(aux, 0, 6)
    child.op_zero(P, P)
    assert world.pager.supply_pages(target, 0, 5 * P, child, 0) == [PageRange(0, 5)]
    assert (shows(target), shows(child), shows(aux)) == ("r0rr0...", "000000", "rrrr")
    assert (world.states(target)[:5], used(world)) == ("cmccm", 7)


def test_a_supply_from_a_snapshot_without_memory_for_copies_moves_nothing() -> None:
    world = World(limit_pages=3)
    vmo, aux = world.vmo(), world.aux(0, 3)
    child = snapshot(aux, 0, 3)
    with pytest.raises(NoMemoryError):
        world.pager.supply_pages(vmo, 0, 2 * P, child, 0)
    assert (world.states(vmo), shows(child), shows(aux)) == ("........", "rrr", "rrr")
    world.check()


def test_a_slice_of_an_aux_gives_pages_of_the_aux(world: World) -> None:
    aux, target = AuxVmo(world.system, 8 * P, resizable=False), world.vmo()
    aux.write_nowait(0, bytes(world.aux(0, 8).read_nowait(0, 8 * P)))
    view = aux_view(aux, 2, 4)
    with pytest.raises(OutOfRangeError):
        world.pager.supply_pages(target, 0, 2 * P, view, 3 * P)
    world.pager.supply_pages(target, 3 * P, P, view, P)
    assert (shows(target), shows(aux)) == ("...r....", "rrr0rrrr")
    physical = AuxVmo(world.system, P, AuxKind.PHYSICAL, resizable=False)
    with pytest.raises(NotSupportedError):
        world.pager.supply_pages(target, 0, P, aux_view(physical, 0, 1), 9 * P)


def test_a_clone_gives_its_pages_after_its_root_was_asked_for_what_is_absent(world: World) -> None:
    source, target = world.vmo(), world.vmo()
    child = clone(source)
    zero(world, child, 1)
    access = world.start(world.pager.supply_pages_access(target, 0, 4 * P, slice_of(child, 0, 6), 0))
    assert world.packets() == ["READ(0,1)"]
    world.supply(source, 0)
    assert world.packets() == ["READ(2,2)"]
    assert not shows(target).strip(".")
    world.supply(source, 2, 2)
    assert access.result() == [PageRange(0, 4)]
    assert (shows(target), shows(child), shows(source)) == ("r0rr....", "0000....", "r.rr....")
    assert used(world) == 6


def test_a_failing_root_fails_the_supply_and_nothing_is_moved(world: World) -> None:
    source, target = world.vmo(), world.vmo()
    child = clone(source)
    write_first = world.start(child.commit(0, P))
    world.supply(source, 0)
    access = world.start(world.pager.supply_pages_access(target, 0, 2 * P, child, 0))
    world.fail(source, 1)
    with pytest.raises(IoError):
        access.result()
    assert (write_first.done, shows(child), shows(target)) == (True, "r.......", "........")


def test_a_supply_that_must_not_wait_is_bad_state_if_it_would_have_to(world: World) -> None:
    source, target = world.vmo(), world.vmo()
    child = clone(source)
    with pytest.raises(BadStateError, match="absent"):
        world.pager.supply_pages(target, 0, P, child, 0)
    world.supply(source, 0)
    assert world.pager.supply_pages(target, 0, P, child, 0) == [PageRange(0, 1)]


def test_what_is_checked_of_a_clone_as_aux_in_order(world: World) -> None:
    source, target, pager = world.vmo(options=VmoOptions()), world.vmo(), world.pager
    world.supply(source, 0, 8)
    child = clone(source)

    def start(aux: object, offset: int = 0, length: int = P, xxh3: int | None = None) -> list[PageRange]:
        return world.start(pager.supply_pages_access(target, 0, length, aux, offset, xxh3)).result()  # type: ignore[arg-type]

    with pytest.raises(InvalidArgsError):
        start(child, 8)
    with pytest.raises(AccessDeniedError):
        start(clone(source, no_write=True))
    for aux in (source, slice_of(source, 0, 8), reference(source)):
        with pytest.raises(OutOfRangeError):
            start(aux, 8 * P)
        with pytest.raises(NotSupportedError):
            start(aux)
    assert start(source, 8 * P, 0) == []
    view = slice_of(child, 0, 8)
    with pytest.raises(BadStateError, match="children"):
        start(child)
    pin = world.start(child.pin(0, P)).result()
    with pytest.raises(BadStateError, match="pinned"):
        start(view)
    pin.unpin()
    right = xxhash.xxh3_64_intdigest(bytes(child.read_nowait(0, P) or b""))
    with pytest.raises(IoDataIntegrityError):
        start(view, 0, P, right ^ 1)
    assert start(view, 0, P, right) == [PageRange(0, 1)]
    assert world.start(pager.supply_pages_access(target, P, P, world.aux(1, 1), 0)).result() == [PageRange(1, 2)]


def test_a_destination_that_refuses_costs_the_clone_its_pages(world: World) -> None:
    source, target = world.vmo(), world.vmo()
    world.supply(source, 0, 8)
    child = clone(source)
    other = clone(child, MODIFIED)
    write(world, child, 0, 2)
    with pytest.raises(OutOfRangeError):
        world.pager.supply_pages(target, 8 * P, 2 * P, other, 0)
    assert (shows(child), shows(other), used(world)) == ("wwrrrrrr", "00rrrrrr", 10)
