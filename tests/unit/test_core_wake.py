"""When a waiter wakes (zircon-pager 3.5)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from vmofs.core.requests.request import PageRequest
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange


def wanted(world: World) -> list[int | None]:
    """Return which page the first waiter of each request wants."""
    return [request.waiters()[0].wanted for request in world.system.requests]


def counts(world: World) -> list[int]:
    return [request.pending_count for request in world.system.requests]


def test_early_wake_lets_a_big_read_progress_without_new_packets(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 8)
    assert world.packets() == ["READ(0,8)"]
    for page in range(8):
        assert (wanted(world), counts(world)) == ([page], [8 - page])
        world.supply(vmo, page)
    pattern.check_pages(reader.result(), KEY, PageRange(0, 8))
    assert world.packets() == []


def test_a_woken_reader_takes_all_contiguous_present_pages(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 8)
    world.supply(vmo, 1, 3)
    assert wanted(world) == [0]
    world.supply(vmo, 0)
    assert wanted(world) == [4]


def test_a_page_supplied_out_of_order_wakes_nobody(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 8)
    world.pager.supply_pages(vmo, 4 * PAGE_SIZE, PAGE_SIZE, world.aux(4, 1), 0)
    assert not world.system.woken
    assert counts(world) == [7]


def test_what_counts_is_the_newly_filled_run_not_the_call(world: World) -> None:
    vmo = world.vmo(10)
    world.start_read(vmo, 0, 10)
    world.supply(vmo, 2, 2)
    world.supply(vmo, 0, 2)
    assert wanted(world) == [4]
    world.supply(vmo, 2, 6)  # fills [4,8)
    assert (wanted(world), counts(world)) == ([8], [2])
    assert world.packets() == ["READ(0,10)"]


def test_supplying_over_present_pages_counts_nothing_and_wakes_nobody(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 4)
    world.supply(vmo, 2, 2)
    assert world.supply(vmo, 2, 2) == []
    assert counts(world) == [2]


def test_a_run_to_the_left_of_the_request_that_reaches_its_start_wakes_early(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 2, 4)
    world.supply(vmo, 0, 4)
    assert (wanted(world), counts(world)) == ([4], [2])


def test_early_wake_reaches_the_overlaps_that_want_what_came(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 8)
    readers = [world.start_read(vmo, page) for page in (1, 2, 3)]
    world.supply(vmo, 0, 3)
    assert [reader.done for reader in readers] == [True, True, False]
    assert world.packets() == ["READ(0,8)"]


def test_early_wake_reaches_the_overlaps_that_it_has_gone_past(world: World) -> None:
    vmo = world.vmo()
    primary = world.start_read(vmo, 0, 8)
    overlap = world.start_read(vmo, 1)
    world.supply(vmo, 1)
    assert not overlap.done  # EarlyWakeOverlappingRequests: out of order wakes no overlap
    world.supply(vmo, 0)
    assert (overlap.done, wanted(world)) == (False, [2])
    world.supply(vmo, 2)
    assert (overlap.done, primary.done) == (True, False)


def test_early_wake_overlapping_requests_go_on_waiting_on_the_same_request(world: World) -> None:
    vmo = world.vmo()
    readers = [world.start_read(vmo, 0, 8), world.start_read(vmo, 2, 4)]
    world.supply(vmo, 0, 3)
    assert [waiter.wanted for request in world.system.requests for waiter in request.waiters()] == [3, 3]
    world.supply(vmo, 3, 3)
    assert [reader.done for reader in readers] == [False, True]
    world.supply(vmo, 6, 2)
    assert readers[0].done
    assert world.packets() == []


def test_a_write_wakes_only_when_its_whole_request_is_resolved(world: World) -> None:
    vmo = world.vmo()
    writer = world.start_write(vmo, 0, 4)
    assert world.packets() == ["READ(0,4)"]
    world.supply(vmo, 0, 3)
    assert (writer.done, world.states(vmo)) == (False, "ccc.....")
    world.supply(vmo, 3)
    assert (writer.done, world.states(vmo)) == (True, "dddd....")


def test_overlap_readers_behind_a_write_wake_only_with_it(world: World) -> None:
    vmo = world.vmo()
    world.start_write(vmo, 0, 4)
    reader = world.start_read(vmo, 0, 2)
    world.supply(vmo, 0, 2)
    assert not reader.done
    world.supply(vmo, 2, 2)
    assert reader.done


def test_the_next_missing_page_outside_the_request_needs_a_new_one(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 4)
    reader = world.start_read(vmo, 0, 8)
    world.supply(vmo, 0, 4)
    assert world.packets() == ["READ(5,3)"]
    assert not reader.done


def test_a_page_resolved_and_evicted_before_the_waiter_ran_leads_to_another_read(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0)
    assert world.packets() == ["READ(0,1)"]
    world.pager.supply_pages(vmo, 0, PAGE_SIZE, world.aux(0, 1), 0)
    world.pager.evict(vmo, 0, PAGE_SIZE)
    assert world.run() == []
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    assert reader.done


def test_a_page_resolved_twice_counts_twice_and_nothing_is_lost(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 4)
    assert world.packets() == ["READ(0,4)"]
    world.supply(vmo, 2, 2)
    world.pager.evict(vmo, 2 * PAGE_SIZE, PAGE_SIZE)
    world.supply(vmo, 2)
    world.supply(vmo, 1)  # the fourth page counted: the request is complete
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    assert reader.done


def test_an_evicted_page_that_a_woken_reader_wants_is_waited_for_in_the_same_request(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 4)
    assert world.packets() == ["READ(0,4)"]
    world.pager.supply_pages(vmo, 0, PAGE_SIZE, world.aux(0, 1), 0)
    world.pager.evict(vmo, 0, PAGE_SIZE)
    assert world.run() == []
    assert (wanted(world), counts(world), world.packets()) == ([0], [3], [])
    world.supply(vmo, 0, 3)  # resolved four times: complete, and page 3 is asked for
    assert world.packets() == ["READ(3,1)"]
    world.supply(vmo, 3)
    assert reader.done


def test_one_supply_answers_the_requests_of_many_readers(world: World) -> None:
    vmo = world.vmo(9)
    readers = [world.start_read(vmo, page, 2) for page in (0, 3, 6)]
    world.supply(vmo, 1, 7)
    assert [reader.done for reader in readers] == [False, True, True]


# Cancellation, 3.8


def test_a_killed_waiter_withdraws_its_packet(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 4).cancel()
    assert world.packets() == []
    assert not world.system.requests


def test_a_request_seen_by_the_pager_and_then_cancelled_may_be_answered(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(0,2)"]
    reader.cancel()
    assert reader.done
    world.fail(vmo, 0, 2)
    world.supply(vmo, 0, 2)
    assert world.states(vmo) == "cc......"


@pytest.mark.parametrize("delivered", [False, True])
def test_the_first_overlap_inherits_the_request_without_a_new_packet(world: World, delivered: bool) -> None:
    vmo = world.vmo()
    first, second, third = (world.start_read(vmo, page, 2) for page in (0, 0, 1))
    packets = world.packets() if delivered else []
    first.cancel()
    assert [waiter.access for request in world.system.requests for waiter in request.waiters()] == [second, third]
    packets += world.packets()
    assert packets == ["READ(0,2)"]
    world.supply(vmo, 0)
    assert wanted(world) == [1]
    world.supply(vmo, 1)
    assert second.done
    assert not third.done
    assert world.packets() == ["READ(2,1)"]


def test_a_killed_overlap_leaves_the_request_to_the_others(world: World) -> None:
    vmo = world.vmo()
    first, second = world.start_read(vmo, 0, 2), world.start_read(vmo, 1)
    second.cancel()
    second.cancel()
    world.supply(vmo, 0, 2)
    assert first.done


def test_suspend_and_restart_sends_a_second_identical_packet(world: World) -> None:
    vmo = world.vmo()
    first = world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(0,2)"]
    first.cancel()
    world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(0,2)"]


def test_a_waiter_killed_after_it_was_woken_does_not_run(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0)
    world.pager.supply_pages(vmo, 0, PAGE_SIZE, world.aux(0, 1), 0)
    reader.cancel()
    assert world.run() == []


def test_an_access_tells_what_it_waits_for(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 1, 2)
    waiter = reader.waits_for
    assert waiter is not None
    request: PageRequest | None = waiter.request
    assert request is not None
    assert (waiter.range, request.source) == ((1, 3), vmo.source)
    world.supply(vmo, 1, 2)
    assert reader.waits_for is None


# Shrinking and zeroing under a pending request, 3.8


def test_shrinking_away_what_a_reader_waits_for_ends_it_out_of_range(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    accesses = [world.start_read(vmo, 4, 2), world.start_write(vmo, 6, 2)]
    assert world.packets() == ["READ(4,2)", "READ(6,2)"]
    world.start(vmo.set_size(4 * PAGE_SIZE))
    world.run()
    for access in accesses:
        with pytest.raises(OutOfRangeError):
            access.result()
    assert world.packets() == []


def test_early_wake_with_resize_a_read_partly_inside_ends_once_it_wakes(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    reader = world.start_read(vmo, 0, 8)
    world.start(vmo.set_size(4 * PAGE_SIZE))
    world.run()
    assert (reader.done, counts(world)) == (False, [4])
    world.supply(vmo, 0)
    with pytest.raises(OutOfRangeError):
        reader.result()
    assert world.packets() == []


def test_resize_commit_goes_on_with_what_is_left_on_the_same_request(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    committer = world.start(vmo.commit(0, 8 * PAGE_SIZE))
    assert world.packets() == ["READ(0,8)"]
    world.supply(vmo, 6)  # is cut off, and not counted twice
    world.start(vmo.set_size(4 * PAGE_SIZE))
    world.run()
    assert (committer.done, counts(world)) == (False, [4])
    world.supply(vmo, 0, 4)
    committer.result()
    assert world.packets() == []


def test_op_zero_unblocks_a_read_request(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 2)
    world.start(vmo.op_zero(0, 2 * PAGE_SIZE))
    world.run()
    assert reader.result() == bytes(2 * PAGE_SIZE)
    assert world.packets() == []
