"""ZERO on a pager VMO (zircon-pager 4.8)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.dirty_harness import (
    P,
    ack,
    begin,
    clean,
    dirty,
    end,
    grown,
    modified,
    resizable,
    resize,
    states,
    zero,
)
from vmofs.core.requests.access import Access
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, NotFoundError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import UINT64_MAX, PageRange


def start_zero(world: World, vmo: PagerVmo, offset: int, length: int) -> Access[None]:
    """Start a ZERO of bytes."""
    return world.start(vmo.op_zero(offset, length))


@pytest.mark.parametrize(("offset", "length"), [(8 * P, 1), (0, 8 * P + 1), (UINT64_MAX, 1), (9 * P, 0)])
def test_zero_outside_is_out_of_range(world: World, offset: int, length: int) -> None:
    vmo = world.vmo()
    with pytest.raises(OutOfRangeError):
        start_zero(world, vmo, offset, length).result()
    assert states(vmo) == "........"


def test_zero_of_nothing_changes_nothing(world: World) -> None:
    vmo = world.vmo()
    for offset in (0, 5, 8 * P):
        assert start_zero(world, vmo, offset, 0).done
    assert (states(vmo), world.packets(), modified(world, vmo)) == ("........", [], False)


@pytest.mark.parametrize("trap", [False, True])
def test_whole_pages_become_dirty_zeros_without_a_request_and_markers_stay(world: World, trap: bool) -> None:
    vmo = grown(world, 6, 8, trap=True) if trap else grown(world, 6, 8)
    world.supply(vmo, 0, 3)
    world.supply(vmo, 3, zero=True)
    if trap:
        ack(world, vmo, 1, 2)
    else:
        world.start_write(vmo, 1, 2)
    begin(world, vmo, 1)
    assert states(vmo) == "cadm..zz"
    zero(world, vmo, 0, 8)
    assert states(vmo) == "zzzmzzzz"
    assert dirty(world, vmo) == "{0,3,Z}{4,4,Z}"
    assert world.packets() == []
    assert vmo.committed_pages == world.system.frames.statistics().used == 0
    assert world.start_read(vmo, 0, 8).result() == bytes(8 * P)


def test_op_zero_unblocks_read_request_and_resolves_it_with_zeros(world: World) -> None:
    vmo = world.vmo()
    read = world.start_read(vmo, 1, 3)
    assert world.packets() == ["READ(1,3)"]
    zero(world, vmo, 0, 8)
    assert read.result() == bytes(3 * P)
    assert world.packets() == []


def test_zero_over_a_part_of_what_a_reader_waits_for_leaves_him_the_rest(world: World) -> None:
    vmo = world.vmo()
    read = world.start_read(vmo, 0, 4)
    zero(world, vmo, 1, 2)
    assert not read.done
    world.supply(vmo, 0, 4)
    data = read.result()
    assert data[P : 3 * P] == bytes(2 * P)
    pattern.check_pages(data[3 * P :], KEY, PageRange(3, 4))


def test_adjacent_results_merge_into_one_interval(world: World) -> None:
    vmo = world.vmo()
    for page in (1, 3, 2):
        zero(world, vmo, page)
    assert dirty(world, vmo) == "{1,3,Z}"


def test_supply_over_what_was_zeroed_is_an_ok_no_op(world: World) -> None:
    vmo = world.vmo()
    zero(world, vmo, 2, 2)
    assert world.supply(vmo, 0, 8) == [PageRange(0, 2), PageRange(4, 8)]
    assert world.start_read(vmo, 2, 2).result() == bytes(2 * P)


def test_op_zero_partial_page_that_reads_as_zero_is_left_alone(world: World) -> None:
    vmo = grown(world, 1, 3, trap=True)
    world.supply(vmo, 0, zero=True)
    begin(world, vmo, 1)
    before = states(vmo)
    for page in range(3):
        assert start_zero(world, vmo, page * P + 8, 100).done
    assert (states(vmo), before, world.packets()) == (before, "mwz", [])
    assert not modified(world, vmo)


def test_op_zero_partial_page_is_read_then_dirty_then_written(world: World) -> None:
    vmo = world.trap_vmo()
    access = start_zero(world, vmo, P + 8, 16)
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert world.packets() == ["DIRTY(1,1)"]
    ack(world, vmo, 1)
    assert access.done
    expected = bytearray(pattern.make(KEY, P, P))
    expected[8:24] = bytes(16)
    assert world.start_read(vmo, 1).result() == bytes(expected)
    assert states(vmo) == ".d......"
    assert modified(world, vmo)


def test_parts_at_both_ends_are_written_first_and_the_pages_between_need_nothing(world: World) -> None:
    vmo = world.vmo()
    access = start_zero(world, vmo, P - 8, 3 * P + 16)
    assert (world.packets(), states(vmo)) == (["READ(0,1)"], "........")
    world.supply(vmo, 0)
    assert (world.packets(), states(vmo)) == (["READ(4,1)"], "d.......")
    world.supply(vmo, 4)
    assert access.done
    assert states(vmo) == "dzzzd..."
    pattern.check(world.start(vmo.read(4 * P + 8, P - 8)).result(), KEY, 4 * P + 8)
    assert world.start(vmo.read(P - 8, 3 * P + 16)).result() == bytes(3 * P + 16)


def test_op_zero_expands_tail(world: World) -> None:
    vmo = grown(world, 2, 4)
    world.supply(vmo, 0, 2)
    assert start_zero(world, vmo, P + 8, P + 100).done  # the part of page 2 is zero already
    assert dirty(world, vmo) == "{1,1}{2,2,Z}"
    zero(world, vmo, 1)
    assert dirty(world, vmo) == "{1,3,Z}"


@pytest.mark.parametrize("offset", [8, 0])
def test_a_part_whose_page_fails_fails_the_call(world: World, offset: int) -> None:
    vmo = world.vmo()
    access = start_zero(world, vmo, offset, P + 8)
    world.fail(vmo, 0, 8)
    with pytest.raises(IoError):
        access.result()
    assert not modified(world, vmo)


def test_op_zero_resize_a_range_that_is_cut_off_meanwhile_is_out_of_range(world: World) -> None:
    vmo = resizable(world, 8)
    access = start_zero(world, vmo, 2 * P + 8, 4 * P)
    assert world.packets() == ["READ(2,1)"]
    resize(world, vmo, 4)
    assert not access.done  # its page is still inside
    world.supply(vmo, 2)
    with pytest.raises(OutOfRangeError):
        access.result()
    other = start_zero(world, vmo, 3 * P + 8, 16)
    resize(world, vmo, 3)
    with pytest.raises(OutOfRangeError):
        other.result()


@pytest.mark.parametrize("pinned", [False, True])
def test_whole_pages_that_are_cut_off_while_an_earlier_one_waits_are_out_of_range(world: World, pinned: bool) -> None:
    vmo = resizable(world, 8, trap=True)
    world.supply(vmo, 0)
    if pinned:
        world.start(vmo.pin(0, P)).result()
    access = start_zero(world, vmo, 0 if pinned else 8, 8 * P - (0 if pinned else 8))
    assert world.packets() == ["DIRTY(0,1)"]
    resize(world, vmo, 4)
    ack(world, vmo, 0)
    with pytest.raises(OutOfRangeError):
        access.result()
    assert states(vmo) == "d..."


def test_pinned_pages_are_zeroed_in_place_and_become_dirty(world: World) -> None:
    vmo = world.vmo(40)
    world.supply(vmo, 0, 40)
    pin = world.start(vmo.pin(2 * P, 20 * P)).result()
    assert start_zero(world, vmo, 0, 40 * P).done
    assert dirty(world, vmo) == "{0,2,Z}{2,20}{22,18,Z}"
    assert world.start_read(vmo, 0, 40).result() == bytes(40 * P)
    assert vmo.committed_pages == 20
    pin.unpin()


def test_under_trap_zero_of_a_pinned_page_asks_dirty(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 8)
    world.start(vmo.pin(3 * P, P)).result()
    access = start_zero(world, vmo, 0, 8 * P)
    assert (world.packets(), states(vmo)) == (["DIRTY(3,1)"], "zzzccccc")
    ack(world, vmo, 3)
    assert access.done
    assert states(vmo) == "zzzdzzzz"


def test_zero_needs_no_pager_for_whole_pages_but_for_parts(world: World) -> None:
    vmo = world.trap_vmo()
    world.pager.detach_vmo(vmo)
    zero(world, vmo, 0, 4)
    assert states(vmo) == "zzzz...."
    with pytest.raises(BadStateError):
        start_zero(world, vmo, 5 * P + 1, 1).result()


def test_modified_is_set_also_when_only_markers_were_met(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 4, zero=True)
    zero(world, vmo, 0, 4)
    assert states(vmo) == "mmmm...."
    assert modified(world, vmo)


def test_an_outstanding_dirty_request_is_not_resolved_by_zero(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    write = world.start_write(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    zero(world, vmo, 0)
    assert not write.done
    ack(world, vmo, 0)  # commits a dirty zero page
    assert write.result() == P
    assert dirty(world, vmo) == "{0,1}"


def test_delayed_dirty_zero_range_after_writeback_is_not_found_and_the_writer_reads_anew(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    write = world.start_write(vmo, 0)
    zero(world, vmo, 0)
    clean(world, vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    with pytest.raises(NotFoundError):
        ack(world, vmo, 0)
    world.run()
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    ack(world, vmo, 0)
    assert write.done


def test_zero_between_begin_and_end_keeps_the_page_dirty(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    world.start_write(vmo, 0, 2)
    begin(world, vmo, 0, 2)
    zero(world, vmo, 0)
    end(world, vmo, 0, 2)
    assert states(vmo) == "zc......"
