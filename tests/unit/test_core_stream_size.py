"""The stream size of bounded and unbounded VMOs (zircon-pager 2.10, 4.3, 3.9)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.dirty_harness import P, ack, clean, dirty, modified, resizable, resize, states
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PageRange


def unbounded(world: World, size: int, *, trap: bool = False) -> PagerVmo:
    """Make an unbounded VMO."""
    return world.vmo(size=size, options=VmoOptions(unbounded=True, trap_dirty=trap))


def set_stream(world: World, vmo: PagerVmo, size: int) -> None:
    """Set the stream size without waiting."""
    world.start(vmo.set_stream_size(size)).result()
    world.run()


def test_an_unbounded_vmo_is_untracked_zero_beyond_its_rounded_stream_size(world: World) -> None:
    vmo = unbounded(world, 2 * P + 1)
    assert (vmo.size_pages, vmo.stream_size) == (MAX_VMO_BYTES // P, 2 * P + 1)
    assert states(vmo, 6) == "...uuu"
    assert world.start_read(vmo, 3, 2).result() == bytes(2 * P)
    assert (dirty(world, vmo), world.packets(), modified(world, vmo)) == ("", [], False)


@pytest.mark.parametrize("size", [8 * P + 1, 2**64])
def test_beyond_the_vmo_is_out_of_range(world: World, size: int) -> None:
    vmo = world.vmo(8)
    with pytest.raises(OutOfRangeError):
        set_stream(world, vmo, size)
    assert (vmo.stream_size, modified(world, vmo)) == (8 * P, False)


def test_beyond_the_largest_vmo_is_out_of_range_for_an_unbounded_one(world: World) -> None:
    vmo = unbounded(world, P)
    with pytest.raises(OutOfRangeError):
        set_stream(world, vmo, MAX_VMO_BYTES + 1)
    set_stream(world, vmo, MAX_VMO_BYTES)
    assert dirty(world, vmo) == f"{{1,{MAX_VMO_BYTES // P - 1},Z}}"


def test_unchanged_is_a_no_op(world: World) -> None:
    vmo = unbounded(world, 100)
    set_stream(world, vmo, 100)
    assert (world.packets(), modified(world, vmo)) == ([], False)


def test_raising_turns_what_is_new_into_dirty_zero(world: World) -> None:
    vmo = unbounded(world, 2 * P)
    set_stream(world, vmo, 4 * P + 1)
    assert states(vmo, 7) == "..zzzuu"
    assert dirty(world, vmo) == "{2,3,Z}"
    assert vmo.stream_size == 4 * P + 1
    assert modified(world, vmo)


def test_lowering_turns_everything_beyond_into_untracked_zero_and_drops_dirty_pages(world: World) -> None:
    vmo = unbounded(world, 6 * P)
    world.supply(vmo, 0, 4)
    world.start_write(vmo, 1, 2)
    set_stream(world, vmo, 2 * P)
    assert (states(vmo, 7), dirty(world, vmo)) == ("cduuuuu", "{1,1}")
    assert world.system.frames.statistics().used == 2
    assert modified(world, vmo)


def test_untracked_absorbs_pages_a_write_beyond_is_reported_until_the_stream_size_moves(world: World) -> None:
    vmo = unbounded(world, P)
    world.start_write(vmo, 3)
    world.start_write(vmo, 9)
    assert (states(vmo, 11), dirty(world, vmo)) == (".uuduuuuudu", "{3,1}{9,1}")
    set_stream(world, vmo, 5 * P)
    assert (states(vmo, 11), dirty(world, vmo)) == (".zzzzuuuuuu", "{1,4,Z}")
    assert vmo.committed_pages == 0


def test_under_trap_a_write_beyond_asks_dirty_first(world: World) -> None:
    vmo = unbounded(world, P, trap=True)
    write = world.start_write(vmo, 2, 2)
    assert world.packets() == ["DIRTY(2,2)"]
    ack(world, vmo, 2, 2)
    assert write.done
    assert dirty(world, vmo) == "{2,2}"


def test_after_detach_a_trapped_write_beyond_is_bad_state_and_a_free_one_is_ok(world: World) -> None:
    for trap in (True, False):
        vmo = unbounded(world, P, trap=trap)
        world.pager.detach_vmo(vmo)
        write = world.start_write(vmo, 2)
        if trap:
            with pytest.raises(BadStateError):
                write.result()
        else:
            assert write.result() == P


def test_the_partial_page_at_a_lower_boundary_is_zeroed_by_a_write(world: World) -> None:
    vmo = world.trap_vmo(4)
    access = world.start(vmo.set_stream_size(P + 8))
    assert (world.packets(), vmo.stream_size) == (["READ(1,1)"], 4 * P)
    world.supply(vmo, 0, 4)
    assert world.packets() == ["DIRTY(1,1)"]
    ack(world, vmo, 1)
    access.result()
    assert (states(vmo), dirty(world, vmo), vmo.stream_size) == ("cduu", "{1,1}", P + 8)
    assert world.start_read(vmo, 1).result() == pattern.make(KEY, P, 8) + bytes(P - 8)


def test_the_partial_page_at_the_old_boundary_is_zeroed_when_the_size_is_raised(world: World) -> None:
    vmo = world.vmo(size=P + 8, options=VmoOptions(unbounded=True))
    world.supply(vmo, 0, 2)
    assert world.start(vmo.write(P + 100, b"beyond")).done
    set_stream(world, vmo, 3 * P)
    assert states(vmo, 4) == "cdzu"
    assert world.start_read(vmo, 1).result() == pattern.make(KEY, P, 8) + bytes(P - 8)


def test_a_partial_page_that_reads_as_zero_needs_nothing(world: World) -> None:
    vmo = unbounded(world, P, trap=True)
    set_stream(world, vmo, 3 * P)
    set_stream(world, vmo, 2 * P + 8)
    set_stream(world, vmo, 2 * P + 16)
    assert (world.packets(), dirty(world, vmo)) == ([], "{1,2,Z}")


def test_if_the_partial_page_fails_the_old_size_stays_and_the_error_is_returned(world: World) -> None:
    vmo = world.vmo(4)
    access = world.start(vmo.set_stream_size(P + 8))
    world.fail(vmo, 1)
    with pytest.raises(IoError):
        access.result()
    assert (vmo.stream_size, states(vmo), modified(world, vmo)) == (4 * P, "....", False)


def test_a_boundary_that_moved_while_one_waited_is_zeroed_at_its_new_place(world: World) -> None:
    vmo = world.vmo(4)
    access = world.start(vmo.set_stream_size(2 * P + 8))
    assert world.packets() == ["READ(2,1)"]
    set_stream(world, vmo, P)  # overtakes, and makes page 2 zero
    access.result()
    assert (vmo.stream_size, states(vmo)) == (2 * P + 8, ".zzu")


def test_a_vmo_that_shrank_while_one_waited_is_out_of_range(world: World) -> None:
    vmo = resizable(world, 4)
    access = world.start(vmo.set_stream_size(2 * P + 8))
    resize(world, vmo, 2)
    with pytest.raises(OutOfRangeError):
        access.result()
    assert vmo.stream_size == 2 * P


def test_a_vmo_that_shrank_below_after_the_wait_is_out_of_range_too(world: World) -> None:
    vmo = resizable(world, 8)
    world.supply(vmo, 0)
    set_stream(world, vmo, 8)
    clean(world, vmo, 0)
    vmo.node.evict(PageRange(0, 1))
    access = world.start(vmo.set_stream_size(6 * P))  # must zero the rest of page 0 first
    assert world.packets() == ["READ(0,1)"]
    world.start(vmo.set_size(8))  # the same stream size, and a VMO of one page
    world.supply(vmo, 0)
    with pytest.raises(OutOfRangeError):
        access.result()
    assert (states(vmo), vmo.stream_size) == ("d", 8)


def test_what_the_pager_supplies_beyond_the_content_in_its_last_page_is_never_seen(world: World) -> None:
    vmo = world.vmo(size=P + 8)
    world.supply(vmo, 0, 2)
    assert world.start_read(vmo, 1).result() == pattern.make(KEY, P, 8) + bytes(P - 8)


def test_moving_the_boundary_resolves_readers_of_absent_pages_with_zeros(world: World) -> None:
    vmo = world.vmo(4)
    read = world.start_read(vmo, 2, 2)
    set_stream(world, vmo, P)
    assert read.result() == bytes(2 * P)
    assert world.packets() == []


def test_markers_at_a_raised_boundary_become_dirty_zero(world: World) -> None:
    vmo = unbounded(world, P)
    world.start_write(vmo, 2)
    clean(world, vmo, 2)
    vmo.node.evict(PageRange(2, 3))
    world.supply(vmo, 2, zero=True)
    assert states(vmo, 4) == ".umu"
    set_stream(world, vmo, 3 * P)
    assert states(vmo, 4) == ".zzu"


def test_pinned_pages_at_a_moved_boundary_are_zeroed_in_place_and_become_dirty(world: World) -> None:
    vmo = world.trap_vmo(4)
    world.supply(vmo, 0, 4)
    world.start(vmo.pin(2 * P, P)).result()
    set_stream(world, vmo, P)
    assert states(vmo) == "cudu"
    assert world.start_read(vmo, 1, 3).result() == bytes(3 * P)


def test_growing_the_vmo_tracks_what_was_beyond_the_stream_size(world: World) -> None:
    vmo = resizable(world, 4)
    set_stream(world, vmo, P)
    world.start_write(vmo, 2)
    assert states(vmo) == ".udu"
    resize(world, vmo, 6)
    assert (states(vmo), vmo.stream_size) == (".zdzzz", 6 * P)


def test_zero_and_writeback_beyond_the_stream_size_leave_untracked_zeros_alone(world: World) -> None:
    vmo = unbounded(world, P)
    world.start(vmo.op_zero(0, 4 * P)).result()
    clean(world, vmo, 1, 5)
    assert (states(vmo, 4), dirty(world, vmo)) == ("zuuu", "{0,1,Z}")
