"""Detach, and the three ways to lose the pager (zircon-pager 2.3, 3.7); eviction (5.1)."""

from __future__ import annotations

import pytest

from tests.oracle.world import AUX_KEY, KEY, World
from vmofs.core.pager import Pager
from vmofs.core.pages.states import PageEvent, PageState
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, InvalidArgsError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, UINT64_MAX, Key, PageRange

P = PAGE_SIZE


def mixed(world: World) -> PagerVmo:
    """Make a VMO whose pages are clean, marker, dirty, gap, beyond the stream size."""
    vmo = world.vmo(4, options=VmoOptions(unbounded=True))
    world.supply(vmo, 0)
    world.supply(vmo, 1, zero=True)
    world.supply(vmo, 2)
    world.start_write(vmo, 2)
    assert world.states(vmo)[:5] == "cmd.u"
    return vmo


# Detach


def test_detach_fails_waiters_and_sends_complete_once(world: World) -> None:
    vmo = world.vmo()
    readers = [world.start_read(vmo, 0, 2), world.start_read(vmo, 1)]
    writer = world.start_write(vmo, 4)
    assert world.dequeue() == "READ(0,2)"
    world.pager.detach_vmo(vmo)
    world.run()
    for access in (*readers, writer):
        with pytest.raises(BadStateError):
            access.result()
    assert world.packets() == ["COMPLETE"]  # the packet that was not dequeued is withdrawn
    assert world.pager.detach_vmo(vmo) == []
    assert world.packets() == []


def test_detach_fails_dirty_waiters(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    writer = world.start_write(vmo, 0)
    world.pager.detach_vmo(vmo)
    world.run()
    with pytest.raises(BadStateError):
        writer.result()
    assert world.packets() == ["COMPLETE"]


def test_detach_drops_clean_pages_and_markers_and_keeps_the_rest(world: World) -> None:
    vmo = mixed(world)
    assert world.pager.detach_vmo(vmo) == [PageRange(0, 2)]
    assert world.states(vmo)[:5] == "..d.u"
    pattern.check_pages(world.start_read(vmo, 2).result(), AUX_KEY, PageRange(2, 3))
    assert world.start_read(vmo, 4).result() == bytes(P)


def test_detach_keeps_pinned_clean_pages(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 4)
    vmo.pinned.add(PageRange(1, 3))
    assert world.pager.detach_vmo(vmo) == [PageRange(0, 1), PageRange(3, 4)]
    assert world.states(vmo) == ".cc....."


def test_reads_of_absent_pages_after_detach_are_bad_state(world: World) -> None:
    vmo = mixed(world)
    world.pager.detach_vmo(vmo)
    for page, pages in ((0, 1), (2, 2), (3, 1)):
        with pytest.raises(BadStateError, match="detached"):
            world.start_read(vmo, page, pages).result()
    assert world.packets() == ["COMPLETE"]


def test_writes_after_detach_need_a_kept_page(world: World) -> None:
    vmo = mixed(world)
    world.pager.detach_vmo(vmo)
    assert world.start_write(vmo, 2).result() == P
    assert world.start_write(vmo, 4).result() == P  # not asked for in a VMO without TRAP_DIRTY
    with pytest.raises(BadStateError):
        world.start_write(vmo, 3).result()


def test_no_dirty_requests_after_detach(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    vmo.pinned.add(PageRange(1, 2))
    writer = world.start_write(vmo, 0)
    vmo.node.make_dirty(PageRange(0, 1), PageEvent.OP_DIRTY)
    world.run()
    assert writer.done
    world.pager.detach_vmo(vmo)
    assert world.start_write(vmo, 0).result() == P
    with pytest.raises(BadStateError):  # clean, kept as it is pinned
        world.start_write(vmo, 1).result()
    assert world.packets() == ["COMPLETE"]


def test_detach_of_a_stranger_is_invalid_args(world: World) -> None:
    for stranger in (AuxVmo(world.system), Pager(world.system).create_vmo(world.port, world.vmo().source.key, P)):
        with pytest.raises(InvalidArgsError):
            world.pager.detach_vmo(stranger)


# The pager closed


def test_closing_the_pager_keeps_every_page_and_leaves_no_packet(world: World) -> None:
    vmo = mixed(world)
    reader = world.start_read(vmo, 3)
    world.pager.close()
    world.run()
    with pytest.raises(BadStateError):
        reader.result()
    assert (world.states(vmo)[:5], world.packets()) == ("cmd.u", [])
    assert world.start_read(vmo, 0, 3).done
    with pytest.raises(BadStateError, match="pager closed"):
        world.start_read(vmo, 3).result()


def test_closing_the_pager_withdraws_a_complete_queued_earlier(world: World) -> None:
    detached, closed, other = world.vmo(), world.vmo(), Pager(world.system).create_vmo(world.port, Key(KEY), P)
    world.pager.detach_vmo(detached)
    world.pager.close_vmo(closed)
    world.start_read(other, 0)
    world.pager.close()
    assert world.packets() == ["READ(0,1)"]


def test_a_complete_that_was_dequeued_before_is_not_taken_back(world: World) -> None:
    world.pager.detach_vmo(world.vmo())
    assert world.packets() == ["COMPLETE"]
    world.pager.close()
    assert world.packets() == []


def test_a_vmo_of_a_closed_pager_belongs_to_no_pager(world: World) -> None:
    vmo = world.vmo()
    world.pager.close()
    for pager in (world.pager, Pager(world.system)):
        with pytest.raises(InvalidArgsError):
            pager.detach_vmo(vmo)
        with pytest.raises(InvalidArgsError):
            pager.supply_pages(vmo, 0, P, world.aux(0, 1), 0)


def test_a_closed_pager_can_be_closed_again_and_counts_on(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0)
    world.pager.close()
    world.pager.close()
    assert world.pager.statistics().read_requests_total == 1
    assert not world.pager.vmos


# The VMO closed


def test_closing_the_vmo_sends_complete_and_frees_everything(world: World) -> None:
    vmo = mixed(world)
    world.pager.close_vmo(vmo)
    assert world.packets() == ["COMPLETE"]
    assert world.system.frames.statistics().used == 0
    assert not world.pager.vmos


def test_a_complete_waits_in_the_port_when_its_vmo_is_gone(world: World) -> None:
    vmo = world.vmo(key=3 * KEY)
    world.pager.close_vmo(vmo)
    del vmo  # only the port knows its source now
    packet = world.port.dequeue()
    assert packet is not None
    assert packet.key == 3 * KEY


def test_closing_a_detached_vmo_sends_no_second_complete(world: World) -> None:
    vmo = world.vmo()
    world.pager.detach_vmo(vmo)
    world.pager.close_vmo(vmo)
    assert world.packets() == ["COMPLETE"]


def test_closing_a_vmo_whose_pager_is_gone_sends_nothing(world: World) -> None:
    vmo = world.vmo()
    world.pager.close()
    world.pager.close_vmo(vmo)
    assert world.packets() == []


def test_those_who_still_wait_when_the_vmo_is_closed_get_bad_state(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0)
    world.pager.close_vmo(vmo)
    world.run()
    with pytest.raises(BadStateError):
        reader.result()


def test_the_requests_of_closed_vmos_stay_counted(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    world.start_write(vmo, 0)
    world.start_read(vmo, 1)
    assert (vmo.source.statistics().outstanding, vmo.source.statistics().waiters) == (2, 2)
    assert (world.system.statistics().requests_outstanding, world.system.statistics().waiters) == (2, 2)
    world.pager.close_vmo(vmo)
    counts = world.pager.statistics()
    assert (counts.vmos, counts.read_requests_total, counts.dirty_requests_total) == (0, 1, 1)


# Eviction


def test_only_clean_pages_are_evicted(world: World) -> None:
    vmo = mixed(world)
    assert world.pager.evict(vmo, 0, 5 * P) == [PageRange(0, 1)]
    assert world.states(vmo)[:5] == ".md.u"
    assert world.system.frames.statistics().used == 1


def test_pinned_pages_are_not_evicted(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 8)
    vmo.pinned.add(PageRange(3, 4))
    assert world.pager.evict(vmo, 0, 8 * P) == [PageRange(0, 3), PageRange(4, 8)]


def test_the_range_of_an_eviction_is_rounded_outward_and_neighbours_stay(world: World) -> None:
    vmo = world.vmo()
    for page in (5, 4, 3, 2):  # frames that do not follow each other: one range is reported nevertheless
        world.supply(vmo, page)
    assert world.pager.evict(vmo, 3 * P + 1, P) == [PageRange(3, 5)]
    assert world.states(vmo) == "..c..c.."
    assert world.pager.evict(vmo, 5 * P, 0) == []


def test_an_evicted_page_is_asked_for_again_and_may_be_supplied_anew(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    world.pager.evict(vmo, 0, P)
    reader = world.start_read(vmo, 0)
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    pattern.check_pages(reader.result(), KEY, PageRange(0, 1))


@pytest.mark.parametrize(("offset", "length"), [(8 * P, 1), (UINT64_MAX, 2)])
def test_eviction_is_refused_out_of_range_and_on_a_stranger(world: World, offset: int, length: int) -> None:
    with pytest.raises(OutOfRangeError):
        world.pager.evict(world.vmo(), offset, length)
    with pytest.raises(InvalidArgsError):
        world.pager.evict(AuxVmo(world.system, 8 * P), offset, length)


def test_a_page_that_stays_clean_after_detach_can_be_evicted(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    vmo.pinned.add(PageRange(0, 1))
    world.pager.detach_vmo(vmo)
    vmo.pinned.discard(PageRange(0, 1))
    assert world.pager.evict(vmo, 0, P) == [PageRange(0, 1)]
    assert vmo.state_at(0) is PageState.GAP
