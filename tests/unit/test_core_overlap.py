"""A new request that meets outstanding ones (zircon-pager 3.3)."""

from __future__ import annotations

from tests.oracle.world import KEY, World
from vmofs.testing import pattern
from vmofs.units import PageRange
from vmofs.vocabulary import PagerOp


def test_concurrent_overlapping_access_of_32_readers_is_one_packet(world: World) -> None:
    vmo = world.vmo()
    readers = [world.start_read(vmo, 3) for _ in range(32)]
    assert world.packets() == ["READ(3,1)"]
    world.supply(vmo, 3)
    assert all(reader.done for reader in readers)
    assert world.packets() == []


def test_a_request_that_starts_inside_another_is_silent_and_asks_later_for_the_rest(world: World) -> None:
    vmo = world.vmo(24)
    first = world.start_read(vmo, 11, 5)
    second = world.start_read(vmo, 15, 4)
    waiter = second.waits_for
    assert waiter is not None
    assert waiter.range == (15, 16)
    assert world.packets() == ["READ(11,5)"]
    world.supply(vmo, 11, 5)
    assert first.done
    assert world.packets() == ["READ(16,3)"]
    world.supply(vmo, 16, 3)
    pattern.check_pages(second.result(), KEY, PageRange(15, 19))


def test_a_request_that_starts_before_another_stops_just_before_it(world: World) -> None:
    vmo = world.vmo(32)
    first = world.start_read(vmo, 8, 16)
    second = world.start_read(vmo, 0, 32)
    assert world.packets() == ["READ(8,16)", "READ(0,8)"]
    world.supply(vmo, 0, 8)
    assert world.packets() == []  # now silent behind the first
    world.supply(vmo, 8, 16)
    assert first.done
    assert world.packets() == ["READ(24,8)"]
    world.supply(vmo, 24, 8)
    pattern.check_pages(second.result(), KEY, PageRange(0, 32))


def test_overlap_commit_order_does_not_matter(world: World) -> None:
    vmo = world.vmo(32)
    world.start_read(vmo, 8, 16)
    second = world.start_read(vmo, 0, 32)
    world.packets()
    world.supply(vmo, 8, 16)
    world.supply(vmo, 0, 8)
    assert world.packets() == ["READ(24,8)"]
    world.supply(vmo, 24, 8)
    assert second.done


def test_a_gap_between_two_requests_is_asked_for_alone(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 2)
    world.start_read(vmo, 5, 2)
    third = world.start_read(vmo, 2, 6)
    assert world.packets() == ["READ(0,2)", "READ(5,2)", "READ(2,3)"]
    world.supply(vmo, 0, 8)
    assert third.done
    assert world.packets() == []


def test_requests_side_by_side_do_not_overlap(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 2, 2)
    world.start_read(vmo, 4, 2)
    world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(2,2)", "READ(4,2)", "READ(0,2)"]


def test_read_and_dirty_requests_of_the_same_pages_do_not_interact(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    writer = world.start_write(vmo, 0, 2)
    world.pager.evict(vmo, 0, 2 * 4096)
    reader = world.start_read(vmo, 0, 2)
    assert world.packets() == ["DIRTY(0,2)", "READ(0,2)"]
    world.supply(vmo, 0, 2)
    assert (reader.done, writer.done) == (True, False)


def test_dirty_requests_overlap_like_reads(world: World) -> None:
    vmo = world.trap_vmo(24)
    world.supply(vmo, 0, 24)
    writers = [world.start_write(vmo, page, pages) for page, pages in ((4, 5), (2, 7), (11, 5), (15, 4))]
    assert world.packets() == ["DIRTY(4,5)", "DIRTY(2,2)", "DIRTY(11,5)"]
    world.op(PagerOp.DIRTY, vmo, 11, 5)
    assert world.packets() == ["DIRTY(16,3)"]
    world.op(PagerOp.DIRTY, vmo, 2, 17)
    assert all(writer.done for writer in writers)
    assert world.packets() == []


def test_the_packet_that_a_second_vmo_needs_is_not_suppressed(world: World) -> None:
    one, two = world.vmo(), world.vmo()
    world.start_read(one, 0)
    world.start_read(two, 0)
    assert world.packets() == ["READ(0,1)", "READ(0,1)"]
