"""zx_vmo_set_size: checks (zircon-pager 2.10), shrinking under requests (3.8), the unaligned tail."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.dirty_harness import P, ack, dirty, grown, modified, resizable, resize, states, zero
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadStateError, OutOfRangeError, UnavailableError
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PageRange
from vmofs.vocabulary import PagerOp

# Checks


@pytest.mark.parametrize("options", [VmoOptions(), VmoOptions(trap_dirty=True), VmoOptions(unbounded=True)])
def test_resize_nonresizable_vmo_is_unavailable_whatever_the_size(world: World, options: VmoOptions) -> None:
    vmo = world.vmo(options=options)
    for size in (0, 8 * P, 2**64):
        with pytest.raises(UnavailableError):
            world.start(vmo.set_size(size)).result()
    assert not modified(world, vmo)


@pytest.mark.parametrize("size", [MAX_VMO_BYTES + 1, 2**64 - 1])
def test_a_size_above_the_largest_vmo_is_out_of_range(world: World, size: int) -> None:
    vmo = resizable(world, 2)
    with pytest.raises(OutOfRangeError):
        world.start(vmo.set_size(size)).result()
    assert (vmo.size_pages, vmo.stream_size, modified(world, vmo)) == (2, 2 * P, False)
    world.start(vmo.set_size(MAX_VMO_BYTES)).result()
    assert dirty(world, vmo) == f"{{2,{MAX_VMO_BYTES // P - 2},Z}}"


def test_a_new_size_needs_no_memory() -> None:
    world = World(limit_pages=2)
    vmo = resizable(world, 2)
    world.supply(vmo, 0, 2)
    assert world.system.frames.statistics().used == 2
    resize(world, vmo, MAX_VMO_BYTES // P)
    resize(world, vmo, 1)
    assert (states(vmo), world.system.frames.statistics().used) == ("c", 1)
    world.check()


def test_shrinking_over_a_pinned_page_is_bad_state_and_changes_nothing(world: World) -> None:
    vmo = resizable(world, 4)
    world.supply(vmo, 0, 4)
    pin = world.start(vmo.pin(2 * P, P)).result()
    with pytest.raises(BadStateError, match="pinned"):
        world.start(vmo.set_size(2 * P)).result()
    assert (states(vmo), modified(world, vmo)) == ("cccc", False)
    resize(world, vmo, 3)
    pin.unpin()
    resize(world, vmo, 2)
    assert (states(vmo), modified(world, vmo)) == ("cc", True)


@pytest.mark.parametrize("pages", [2, 4, 6])
def test_any_successful_call_sets_modified_even_with_the_size_unchanged(world: World, pages: int) -> None:
    vmo = resizable(world, 4)
    resize(world, vmo, pages)
    assert modified(world, vmo)


# Growing and shrinking


def test_the_vmo_is_rounded_up_and_the_stream_size_is_exact(world: World) -> None:
    vmo = resizable(world, 0)
    world.start(vmo.set_size(5 * P + 7)).result()
    assert (vmo.size_pages, vmo.stream_size) == (6, 5 * P + 7)
    assert world.packets() == []  # the last page is zero already
    assert dirty(world, vmo) == "{0,6,Z}"


def test_growing_keeps_what_is_there_and_never_reads(world: World) -> None:
    vmo = resizable(world, 3)
    world.supply(vmo, 1)
    resize(world, vmo, 5)
    assert (states(vmo), world.packets()) == (".c.zz", [])


def test_shrinking_frees_everything_beyond_silently(world: World) -> None:
    vmo = grown(world, 4, 8)
    world.supply(vmo, 0, 4)
    world.start_write(vmo, 2, 4)
    resize(world, vmo, 1)
    assert (states(vmo), dirty(world, vmo)) == ("c", "")
    assert world.system.frames.statistics().used == 1
    assert world.packets() == []
    with pytest.raises(OutOfRangeError):
        world.start_read(vmo, 1).result()


def test_a_vmo_shrinks_to_nothing_and_grows_again(world: World) -> None:
    vmo = resizable(world, 4)
    world.supply(vmo, 0, 4)
    resize(world, vmo, 0)
    assert (vmo.size_pages, vmo.committed_pages) == (0, 0)
    resize(world, vmo, 2)
    assert states(vmo) == "zz"


# The unaligned tail


def test_the_tail_of_a_present_page_is_zeroed_by_a_write(world: World) -> None:
    vmo = resizable(world, 4)
    world.supply(vmo, 0, 4)
    assert world.start(vmo.set_size(2 * P + 8)).done
    assert (states(vmo), dirty(world, vmo)) == ("ccd", "{2,1}")
    assert world.start_read(vmo, 2).result() == pattern.make(KEY, 2 * P, 8) + bytes(P - 8)


def test_the_tail_of_an_absent_page_is_read_and_under_trap_asked_while_the_size_has_changed(world: World) -> None:
    vmo = resizable(world, 4, trap=True)
    access = world.start(vmo.set_size(2 * P + 8))
    assert (vmo.stream_size, world.packets()) == (2 * P + 8, ["READ(2,1)"])
    world.supply(vmo, 2)
    assert world.packets() == ["DIRTY(2,1)"]
    ack(world, vmo, 2)
    assert access.done
    assert world.start_read(vmo, 2).result()[8:] == bytes(P - 8)


def test_the_failure_of_the_tail_is_ignored(world: World) -> None:
    vmo = resizable(world, 4)
    access = world.start(vmo.set_size(2 * P + 8))
    world.fail(vmo, 2)
    access.result()
    assert (states(vmo), vmo.stream_size) == ("...", 2 * P + 8)
    world.pager.detach_vmo(vmo)
    world.start(vmo.set_size(P + 8)).result()
    assert (vmo.size_pages, vmo.stream_size) == (2, P + 8)


def test_the_tail_of_a_page_that_is_cut_off_meanwhile_does_not_matter(world: World) -> None:
    vmo = resizable(world, 4)
    access = world.start(vmo.set_size(2 * P + 8))
    resize(world, vmo, 1)
    access.result()
    assert vmo.stream_size == P


# Shrinking under requests


def test_a_reader_entirely_beyond_wakes_at_once_with_out_of_range(world: World) -> None:
    vmo = resizable(world, 8)
    read = world.start_read(vmo, 4, 2)
    resize(world, vmo, 4)
    with pytest.raises(OutOfRangeError):
        read.result()
    assert world.packets() == []  # withdrawn


def test_early_wake_with_resize_a_reader_partly_inside_ends_out_of_range_once_it_wakes(world: World) -> None:
    vmo = resizable(world, 8)
    read = world.start_read(vmo, 2, 4)
    resize(world, vmo, 4)
    assert not read.done
    assert world.packets() == ["READ(2,4)"]
    world.supply(vmo, 2)
    with pytest.raises(OutOfRangeError):
        read.result()


def test_resize_commit_goes_on_waiting_for_the_part_inside_on_the_same_request(world: World) -> None:
    vmo = resizable(world, 8)
    commit = world.start(vmo.commit(0, 8 * P))
    assert world.packets() == ["READ(0,8)"]
    world.supply(vmo, 6)  # not counted twice when it is cut off
    resize(world, vmo, 4)
    assert not commit.done
    world.supply(vmo, 0, 3)
    assert not commit.done
    world.supply(vmo, 3)
    commit.result()
    assert (states(vmo), world.packets()) == ("cccc", [])


@pytest.mark.parametrize("name", ["commit", "prefetch", "always_need"])
def test_commit_resize_race_what_is_cut_off_is_no_error_for_those_without_bytes(world: World, name: str) -> None:
    vmo = resizable(world, 8)
    access = world.start(getattr(vmo, name)(2 * P, 6 * P))
    resize(world, vmo, 1)
    assert access.done
    access.result()


@pytest.mark.parametrize("pages", [4, 3])
def test_a_writer_that_waits_for_dirty_beyond_wakes_with_out_of_range(world: World, pages: int) -> None:
    vmo = resizable(world, 8, trap=True)
    world.supply(vmo, 0, 8)
    write = world.start_write(vmo, 4, 2)
    assert world.packets() == ["DIRTY(4,2)"]
    resize(world, vmo, pages)
    with pytest.raises(OutOfRangeError):
        write.result()
    assert world.pager.pending() == []


def test_dirty_pages_that_are_cut_off_are_not_counted_twice(world: World) -> None:
    vmo = grown(world, 0, 8, trap=True)
    commit = world.start(vmo.commit(0, 8 * P))
    assert world.packets() == ["DIRTY(0,8)"]
    ack(world, vmo, 6, 2)
    resize(world, vmo, 4)
    ack(world, vmo, 0, 2)
    assert (commit.done, world.packets()) == (False, [])  # two of the four inside are left, on the same request
    ack(world, vmo, 2, 2)
    commit.result()
    assert world.packets() == []


def test_a_writer_of_a_page_that_was_zeroed_and_written_back_meanwhile_does_not_hang_when_it_is_cut(
    world: World,
) -> None:
    vmo = resizable(world, 2, trap=True)
    world.supply(vmo, 0, 2)
    write = world.start_write(vmo, 1)
    zero(world, vmo, 1)
    world.op(PagerOp.WRITEBACK_BEGIN, vmo, 1)
    world.op(PagerOp.WRITEBACK_END, vmo, 1)
    assert states(vmo) == "c."
    resize(world, vmo, 1)
    with pytest.raises(OutOfRangeError):
        write.result()


def test_resizing_works_after_detach_and_after_the_pager_was_closed(world: World) -> None:
    vmo, other = resizable(world, 4), resizable(world, 4)
    world.pager.detach_vmo(vmo)
    world.pager.close()
    for each in (vmo, other):
        resize(world, each, 6)
        resize(world, each, 2)
        assert (each.size_pages, each.modified) == (2, True)
    assert world.system.take_stale() == {vmo: [PageRange(4, 6)], other: [PageRange(4, 6)]}
