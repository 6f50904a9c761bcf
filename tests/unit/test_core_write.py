"""zx_vmo_write (zircon-pager 2.9, 3.2, and 4.1 as far as it is about what a write asks)."""

from __future__ import annotations

import pytest

from tests.oracle.world import AUX_KEY, KEY, World
from vmofs.core.pages.states import PageEvent
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, NoMemoryError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange

P = PAGE_SIZE


def acknowledge(world: World, vmo: PagerVmo, page: int, pages: int) -> None:
    """Do what OP_DIRTY does to present pages."""
    vmo.node.make_dirty(PageRange(page, page + pages), PageEvent.OP_DIRTY)
    world.run()


def test_a_write_to_a_present_page_changes_just_those_bytes(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    assert world.start(vmo.write(P - 2, b"abcd")).result() == 4
    data = world.start_read(vmo, 0, 2).result()
    expected = pattern.make_pages(KEY, PageRange(0, 2))
    assert data == expected[: P - 2] + b"abcd" + expected[P + 2 :]
    assert (world.states(vmo), vmo.modified, world.packets()) == ("dd......", True, [])


def test_a_write_to_an_absent_page_is_read_then_dirty_under_trap(world: World) -> None:
    vmo = world.trap_vmo()
    writer = world.start(vmo.write(P + 8, b"x"))
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert world.packets() == ["DIRTY(1,1)"]
    assert not vmo.modified
    acknowledge(world, vmo, 1, 1)
    assert writer.done
    data = world.start_read(vmo, 1).result()
    pattern.check(data[:8], KEY, P)
    assert data[8:9] == b"x"


def test_a_write_to_an_absent_page_is_only_read_without_trap(world: World) -> None:
    vmo = world.vmo()
    writer = world.start_write(vmo, 1, 2)
    assert world.packets() == ["READ(1,2)"]
    world.supply(vmo, 1, 2)
    assert (writer.result(), world.packets(), world.states(vmo)) == (2 * P, [], ".dd.....")


def test_large_write_batched_asks_for_16_pages_at_a_time(world: World) -> None:
    vmo = world.trap_vmo(40)
    writer = world.start_write(vmo, 2, 36)
    for page, pages in ((2, 16), (18, 16), (34, 4)):
        assert world.packets() == [f"READ({page},{pages})"]
        world.supply(vmo, page, pages)
        assert world.packets() == [f"DIRTY({page},{pages})"]
        acknowledge(world, vmo, page, pages)
    pattern.check_pages(world.start_read(vmo, 2, 36).result(), AUX_KEY, PageRange(2, 38))
    assert writer.done


def test_dirty_stops_at_a_gap_and_mixes_clean_pages_with_markers(world: World) -> None:
    vmo = world.trap_vmo(16)
    world.supply(vmo, 0, 6)
    world.supply(vmo, 6, 3, zero=True)
    writer = world.start_write(vmo, 4, 6)
    assert world.packets() == ["DIRTY(4,5)"]
    acknowledge(world, vmo, 4, 5)
    assert world.packets() == ["READ(9,1)"]
    world.supply(vmo, 9)
    assert world.packets() == ["DIRTY(9,1)"]
    acknowledge(world, vmo, 9, 1)
    assert writer.done


def test_dirty_stops_at_a_dirty_page_and_takes_in_untracked_zeros(world: World) -> None:
    vmo = world.vmo(8, options=VmoOptions(trap_dirty=True, unbounded=True))
    world.supply(vmo, 0, 8)
    for page, pages in ((1, 2), (4, 1)):
        acknowledge(world, vmo, page, pages)
    writer = world.start_write(vmo, 0, 10)
    for page, pages in ((0, 1), (3, 1), (5, 5)):
        assert world.packets() == [f"DIRTY({page},{pages})"]
        acknowledge(world, vmo, page, pages)
    assert writer.done
    assert world.states(vmo)[:11] == "ddddddddddu"


def test_writes_to_dirty_pages_ask_nothing(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    acknowledge(world, vmo, 0, 2)
    assert world.start_write(vmo, 0, 2).done
    assert world.packets() == []


def test_a_marker_and_an_untracked_page_get_memory_when_written(world: World) -> None:
    vmo = world.vmo(1, options=VmoOptions(unbounded=True))
    world.supply(vmo, 0, zero=True)
    assert world.start(vmo.write(10, b"x")).done
    assert world.start(vmo.write(5 * P, b"yz")).done
    assert world.states(vmo)[:7] == "duuuudu"
    assert world.start(vmo.read(8, 4)).result() == b"\0\0x\0"
    assert world.start(vmo.read(5 * P - 1, 4)).result() == b"\0yz\0"


def test_markers_between_pages_are_written_in_one_call(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    world.supply(vmo, 2, 3, zero=True)
    world.supply(vmo, 5, 2)
    world.start(vmo.write(P + 1, pattern.make(AUX_KEY, P + 1, 5 * P)))
    assert world.states(vmo) == "cdddddd."
    pattern.check(world.start(vmo.read(P + 1, 5 * P)).result(), AUX_KEY, P + 1)


def test_dirtying_is_up_front_for_the_run_of_committed_pages(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 3)
    writer = world.start_write(vmo, 1, 4)
    assert world.packets() == ["READ(3,2)"]
    assert (world.states(vmo), vmo.modified) == ("cdd.....", True)
    world.fail(vmo, 3, 2)
    with pytest.raises(IoError):
        writer.result()
    # What was written before the failure stays written.
    pattern.check_pages(world.start_read(vmo, 1, 2).result(), AUX_KEY, PageRange(1, 3))


def test_a_refused_write_leaves_state_contents_and_modified(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    world.supply(vmo, 1, zero=True)
    writer = world.start_write(vmo, 0, 2)
    world.fail(vmo, 0, 2)
    with pytest.raises(IoError):
        writer.result()
    assert (world.states(vmo), vmo.modified) == ("cm......", False)
    pattern.check_pages(world.start_read(vmo, 0).result(), KEY, PageRange(0, 1))


def test_an_acknowledgement_that_covers_more_spares_the_next_question(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 8)
    world.start_write(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    acknowledge(world, vmo, 0, 8)
    assert world.start_write(vmo, 3, 4).done


def test_a_page_evicted_while_the_writer_waits_for_dirty_is_read_again(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    writer = world.start_write(vmo, 0, 2)
    assert world.packets() == ["DIRTY(0,2)"]
    world.pager.evict(vmo, P, P)
    acknowledge(world, vmo, 0, 1)
    world.fail(vmo, 1)  # in the middle: not latched
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert world.packets() == ["DIRTY(1,1)"]
    assert not writer.done


def test_a_write_without_memory_fails_with_no_memory_and_keeps_what_is_there() -> None:
    small = World(limit_pages=1)
    vmo = small.vmo()
    small.supply(vmo, 0)
    small.supply(vmo, 1, zero=True)
    writer = small.start_write(vmo, 0, 2)
    with pytest.raises(NoMemoryError):
        writer.result()
    assert small.states(vmo)[:2] == "dm"
    small.check()


def test_a_trapped_write_without_a_pager_is_bad_state(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    world.pager.close()
    with pytest.raises(BadStateError):
        world.start_write(vmo, 0).result()
