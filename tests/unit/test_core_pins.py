"""Pins: counted, paged in like COMMIT, and what they protect from (zircon-pager 2.10, 3.7, 4.5, 4.8, 5.1)."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.dirty_harness import P, ack, begin, clean, dirty, end, grown, modified, resizable, resize, states
from vmofs.core.pages.pins import Pins
from vmofs.status import BadStateError, IoError, OutOfRangeError
from vmofs.units import PageRange


def held(pins: Pins) -> list[PageRange]:
    """Return the pinned pages, checked."""
    pins.check()
    return list(pins.pages)


def test_two_pins_of_a_page_need_two_unpins() -> None:
    pins = Pins()
    first, second = pins.add(PageRange(0, 4)), pins.add(PageRange(2, 6))
    assert held(pins) == [PageRange(0, 6)]
    first.unpin()
    assert held(pins) == [PageRange(2, 6)]
    second.unpin()
    assert held(pins) == []


def test_pins_may_lie_on_each_other_in_any_depth_and_be_lifted_in_any_order() -> None:
    pins = Pins()
    held_pins = [pins.add(PageRange(start, end)) for start, end in ((0, 9), (2, 7), (4, 5), (4, 5), (0, 3), (8, 12))]
    for lifted, expected in (
        (0, [PageRange(0, 7), PageRange(8, 12)]),
        (3, [PageRange(0, 7), PageRange(8, 12)]),
        (4, [PageRange(2, 7), PageRange(8, 12)]),
        (1, [PageRange(4, 5), PageRange(8, 12)]),
        (2, [PageRange(8, 12)]),
        (5, []),
    ):
        held_pins[lifted].unpin()
        assert held(pins) == expected


def test_unpinning_twice_counts_once() -> None:
    pins = Pins()
    first, _second = pins.add(PageRange(0, 1)), pins.add(PageRange(0, 1))
    first.unpin()
    first.unpin()
    assert held(pins) == [PageRange(0, 1)]


def test_a_pin_of_nothing_holds_nothing(world: World) -> None:
    vmo = world.vmo()
    pin = world.start(vmo.pin(3 * P, 0, write=True)).result()
    assert (held(vmo.node.pins), world.packets(), modified(world, vmo)) == ([], [], False)
    pin.unpin()


def test_a_pin_pages_in_like_commit_and_holds_the_pages_once_all_are_there(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 3, zero=True)
    access = world.start(vmo.pin(2 * P + 5, 2 * P))
    assert world.packets() == ["READ(2,1)"]
    world.supply(vmo, 2)
    assert (world.packets(), held(vmo.node.pins)) == (["READ(4,1)"], [])
    world.supply(vmo, 4)
    assert access.result().pages == PageRange(2, 5)
    assert (states(vmo), held(vmo.node.pins)) == ("..ccc...", [PageRange(2, 5)])
    assert not modified(world, vmo)


def test_a_page_that_is_evicted_while_a_pin_waits_is_read_again(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    access = world.start(vmo.pin(0, 2 * P))
    assert world.packets() == ["READ(1,1)"]
    vmo.node.evict(PageRange(0, 1))
    world.supply(vmo, 1)
    assert (access.done, world.packets()) == (False, ["READ(0,1)"])
    world.supply(vmo, 0)
    access.result()


def test_a_pin_that_fails_holds_nothing(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    access = world.start(vmo.pin(0, 2 * P))
    world.fail(vmo, 1)
    with pytest.raises(IoError):
        access.result()
    assert held(vmo.node.pins) == []


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("pages", [1, 4])
def test_a_pin_that_is_cut_off_meanwhile_is_out_of_range(world: World, pages: int, write: bool) -> None:
    vmo = resizable(world, 8)
    access = world.start(vmo.pin(3 * P, 4 * P, write=write))
    resize(world, vmo, pages)
    if pages > 3:
        world.supply(vmo, 3)
    with pytest.raises(OutOfRangeError):
        access.result()
    with pytest.raises(OutOfRangeError):
        world.start(vmo.pin(7 * P, P)).result()


def test_a_write_pin_makes_pages_dirty_and_sets_modified(world: World) -> None:
    vmo = grown(world, 4, 6)
    world.supply(vmo, 0, 4)
    world.start(vmo.pin(2 * P, 4 * P, write=True)).result()
    assert states(vmo) == "ccdddd"
    assert modified(world, vmo)


def test_a_write_pin_of_a_detached_vmo_whose_pages_are_gone_is_bad_state(world: World) -> None:
    vmo = world.vmo()
    world.pager.detach_vmo(vmo)
    with pytest.raises(BadStateError):
        world.start(vmo.pin(0, P, write=True)).result()


def test_not_modified_partial_failed_pin_write(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    access = world.start(vmo.pin(0, 2 * P, write=True))
    assert world.packets() == ["DIRTY(0,2)"]
    ack(world, vmo, 0)
    world.fail(vmo, 1)
    assert world.packets() == ["DIRTY(1,1)"]  # a failure of the last page is not latched: it asks anew
    world.fail(vmo, 1)
    with pytest.raises(IoError):
        access.result()
    assert (states(vmo)[:2], held(vmo.node.pins), modified(world, vmo)) == ("dc", [], False)


def test_a_page_that_is_written_back_while_a_write_pin_waits_is_asked_for_again(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    ack(world, vmo, 0)
    access = world.start(vmo.pin(0, 2 * P, write=True))
    assert world.packets() == ["READ(1,1)"]
    begin(world, vmo, 0)
    world.supply(vmo, 1)
    assert world.packets() == ["DIRTY(1,1)"]
    ack(world, vmo, 1)
    assert world.packets() == ["DIRTY(0,1)"]
    ack(world, vmo, 0)
    assert access.done


def test_pinned_pages_stay_dirty_on_begin_until_unpinned_and_begun_again(world: World) -> None:
    vmo = world.vmo(4)
    world.supply(vmo, 0, 4)
    world.start_write(vmo, 0, 4)
    pin = world.start(vmo.pin(P, 2 * P)).result()
    clean(world, vmo, 0, 4)
    assert (states(vmo), dirty(world, vmo)) == ("cddc", "{1,2}")
    pin.unpin()
    end(world, vmo, 0, 4)
    assert states(vmo) == "cddc"
    clean(world, vmo, 0, 4)
    assert states(vmo) == "cccc"


def test_detach_keeps_pinned_pages_and_unpinning_lets_them_be_evicted(world: World) -> None:
    vmo = world.vmo(4)
    world.supply(vmo, 0, 4)
    pins = [world.start(vmo.pin(P, P)).result() for _ in range(2)]
    world.pager.detach_vmo(vmo)
    assert states(vmo) == ".c.."
    pins[0].unpin()
    assert vmo.node.evict(PageRange(0, 4)) == []
    pins[1].unpin()
    assert vmo.node.evict(PageRange(0, 4)) == [PageRange(1, 2)]


def test_pinned_supply_pages_keeps_what_is_pinned(world: World) -> None:
    vmo = world.vmo(4)
    world.supply(vmo, 1)
    world.start(vmo.pin(P, P)).result()
    assert world.supply(vmo, 0, 4) == [PageRange(0, 1), PageRange(2, 4)]


def test_a_pin_that_outlives_its_vmo_is_lifted_without_harm(world: World) -> None:
    vmo = world.vmo(1)
    world.supply(vmo, 0)
    pin = world.start(vmo.pin(0, P)).result()
    world.pager.close_vmo(vmo)
    pin.unpin()
    assert world.system.frames.statistics().used == 0
