"""Which copies that others keep of pages are stale: zeroed, cut off, dropped, or written back as zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle.world import World
from tests.support.dirty_harness import P, ack, clean, grown, resize, zero
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PageRange


def stale(world: World, vmo: PagerVmo | AuxVmo) -> list[PageRange]:
    """Return what became stale of a VMO; nothing else may have."""
    taken = world.system.take_stale()
    assert taken.keys() <= {vmo}
    return taken.get(vmo, [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda world, vmo: zero(world, vmo, 1, 7), [PageRange(1, 4)]),  # the rest was absent, or zero before
        (lambda world, vmo: world.start(vmo.op_zero(8, P)), [PageRange(0, 2)]),
        (lambda world, vmo: resize(world, vmo, 2), [PageRange(2, 4), PageRange(6, 8)]),
        (lambda world, vmo: world.start(vmo.set_size(2 * P + 8)), [PageRange(2, 4), PageRange(6, 8)]),
        (lambda world, vmo: world.start(vmo.set_stream_size(2 * P + 8)), [PageRange(2, 4)]),
        (lambda world, vmo: world.pager.evict(vmo, P, 7 * P), [PageRange(1, 3)]),
        (lambda world, vmo: world.pager.detach_vmo(vmo), [PageRange(0, 3)]),
        (lambda world, vmo: clean(world, vmo, 0, 7), [PageRange(6, 7)]),
    ],
)
def test_stale_is_what_changed_or_went_and_could_have_been_copied(
    world: World, change: Callable[[World, PagerVmo], object], expected: list[PageRange]
) -> None:
    vmo = grown(world, 6, 8)
    world.supply(vmo, 0, 4)
    world.start_write(vmo, 3)
    assert stale(world, vmo) == []
    change(world, vmo)
    assert stale(world, vmo) == expected
    assert stale(world, vmo) == []


def test_zeroing_pinned_pages_in_place_makes_copies_stale(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 4)
    world.start(vmo.pin(P, P)).result()
    zero(world, vmo, 1)
    assert stale(world, vmo) == [PageRange(1, 2)]
    world.start(vmo.set_stream_size(0)).result()
    assert stale(world, vmo) == [PageRange(0, 4)]


def test_pinned_pages_that_zero_has_reached_are_stale_while_it_waits_for_others(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    pin = world.start(vmo.pin(0, P, write=True))
    ack(world, vmo, 0)
    pin.result()
    world.start(vmo.pin(P, P)).result()
    access = world.start(vmo.op_zero(0, 2 * P))
    assert world.packets()[-1] == "DIRTY(1,1)"
    assert stale(world, vmo) == [PageRange(0, 1)]
    ack(world, vmo, 1)
    assert (access.done, stale(world, vmo)) == (True, [PageRange(1, 2)])


def test_what_gains_content_is_not_stale(world: World) -> None:
    vmo = grown(world, 2, 4)
    world.supply(vmo, 0, 2)
    world.start_write(vmo, 1, 2)
    world.start(vmo.commit(0, 4 * P)).result()
    resize(world, vmo, 8)
    assert stale(world, vmo) == []


def test_a_closed_vmo_has_nothing_stale(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    zero(world, vmo, 0)
    world.pager.close_vmo(vmo)
    assert world.system.take_stale() == {}


def test_pages_that_leave_an_aux_are_stale_there(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 4)
    world.pager.supply_pages(vmo, P, 2 * P, aux, P)
    assert stale(world, aux) == [PageRange(1, 3)]
    aux.decommit(0, 4 * P)
    assert stale(world, aux) == [PageRange(0, 1), PageRange(3, 4)]
