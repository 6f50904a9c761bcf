"""OP_FAIL: its checks (zircon-pager 2.5) and who gets the error (3.6); requests that expire."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from vmofs.core.pager import FAIL_CODES
from vmofs.core.pages.states import PageEvent
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import (
    BadStateError,
    InvalidArgsError,
    IoDataIntegrityError,
    IoError,
    NoSpaceError,
    NotSupportedError,
    OutOfRangeError,
    Status,
    TimedOutError,
    VmoError,
)
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, UINT64_MAX, PageRange
from vmofs.vocabulary import PagerOp

P = PAGE_SIZE


# The order of checks


@pytest.mark.parametrize(("offset", "length"), [(1, P), (0, P + 1)])
def test_op_range_checks_alignment_before_handles(world: World, offset: int, length: int) -> None:
    with pytest.raises(InvalidArgsError, match="not page aligned"):
        world.pager.op_range(PagerOp.FAIL, AuxVmo(world.system), offset, length, Status.IO)


def test_a_wrong_op_on_someone_elses_vmo_is_invalid_args(world: World) -> None:
    with pytest.raises(InvalidArgsError, match="not made by this pager"):
        world.pager.op_range(None, AuxVmo(world.system), 0, P)


def test_an_unknown_op_is_not_supported_before_its_range_is_looked_at(world: World) -> None:
    with pytest.raises(NotSupportedError):
        world.pager.op_range(None, world.vmo(), 80 * P, P)


@pytest.mark.parametrize("data", [0, 1, 40, -1, Status.NO_MEMORY, Status.TIMED_OUT, 0x11FFFFFFFF, UINT64_MAX])
def test_fail_refuses_other_codes_before_it_looks_at_the_range(world: World, data: int) -> None:
    with pytest.raises(InvalidArgsError, match="cannot fail with"):
        world.fail(world.vmo(), 80, status=data)  # type: ignore[arg-type]


@pytest.mark.parametrize(("offset", "length"), [(8 * P, P), (7 * P, 2 * P), (UINT64_MAX - P + 1, P), (9 * P, 0)])
def test_fail_checks_the_range_before_the_attachment(world: World, offset: int, length: int) -> None:
    vmo = world.vmo()
    world.pager.detach_vmo(vmo)
    with pytest.raises(OutOfRangeError):
        world.pager.op_range(PagerOp.FAIL, vmo, offset, length, Status.IO)
    with pytest.raises(BadStateError):
        world.fail(vmo, 0)
    with pytest.raises(BadStateError):
        world.fail(vmo, 8, 0)


def test_fail_is_ok_when_nothing_waits_and_changes_no_page(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    world.fail(vmo, 0, 8)
    world.fail(vmo, 8, 0)
    assert world.states(vmo) == "c......."
    world.start_read(vmo, 1)
    assert world.packets() == ["READ(1,1)"]


# What the waiter gets


@pytest.mark.parametrize("code", sorted(FAIL_CODES))
def test_fail_error_code_reaches_the_reader_as_it_is(world: World, code: Status) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 1, 2)
    world.fail(vmo, 1, 2, code)
    with pytest.raises(VmoError) as caught:
        reader.result()
    assert caught.value.status is code


def test_a_code_may_be_given_as_an_unsigned_number(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0)
    world.op(PagerOp.FAIL, vmo, 0, 1, 2**64 + Status.IO)
    with pytest.raises(VmoError) as caught:
        reader.result()
    assert caught.value.status is Status.IO


def test_fail_is_momentary_the_next_access_asks_again(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0)
    world.packets()
    world.fail(vmo, 0)
    reader = world.start_read(vmo, 0)
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    pattern.check_pages(reader.result(), KEY, PageRange(0, 1))


def test_fail_withdraws_a_packet_that_was_not_dequeued(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 2)
    world.fail(vmo, 0, 2)
    assert world.packets() == []


def test_fail_single_page_of_a_read_wakes_it_at_once(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 4)
    world.fail(vmo, 0)
    with pytest.raises(IoError):
        reader.result()
    assert not world.system.requests


def test_fail_early_wake_at_the_currently_wanted_page(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 8)
    world.supply(vmo, 0, 4)
    world.fail(vmo, 4)
    with pytest.raises(IoError):
        reader.result()
    assert world.states(vmo) == "cccc...."


def test_fail_in_the_middle_is_not_latched_and_leads_to_a_new_read(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 3)
    world.fail(vmo, 1)
    world.supply(vmo, 2)
    assert world.packets() == ["READ(0,3)"]
    world.supply(vmo, 0)
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert reader.done


@pytest.mark.parametrize("supplied_first", [True, False])
def test_fail_overlapping_range_at_the_end_leads_to_a_new_read(world: World, supplied_first: bool) -> None:
    vmo = world.vmo(10)
    world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(0,2)"]
    if supplied_first:
        world.supply(vmo, 0)  # wakes it early: page 1 is now the wanted page
        world.fail(vmo, 1, 9)
        assert world.packets() == []
        return
    world.fail(vmo, 1, 9)
    world.supply(vmo, 0)
    assert world.packets() == ["READ(1,1)"]


@pytest.mark.parametrize(
    ("page", "pages", "latched"),
    [(2, 6, False), (3, 2, False), (4, 4, True), (0, 8, True), (5, 1, False), (4, 1, True)],
)
def test_a_failure_is_latched_if_it_begins_at_the_first_or_the_wanted_page(
    world: World, page: int, pages: int, latched: bool
) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 8)
    world.supply(vmo, 0, 4)
    waiter = reader.waits_for
    assert waiter is not None
    world.pager.op_range(PagerOp.FAIL, vmo, page * P, pages * P, Status.IO)
    assert waiter.latched is (Status.IO if latched else None)
    # Covering the wanted page from further left wakes nobody, unless that makes the request complete.
    assert (reader in world.system.woken) == (page == 4 or pages >= 4)


def test_a_write_returns_the_error_only_when_its_whole_request_was_counted(world: World) -> None:
    vmo = world.vmo(11)
    writer = world.start_write(vmo, 0, 11)
    for page in range(11):  # FailRedundant: one by one
        assert not writer.done
        world.fail(vmo, page)
    with pytest.raises(IoError):
        writer.result()
    assert not vmo.modified


def test_a_latched_error_is_returned_even_if_the_pages_were_meanwhile_supplied(world: World) -> None:
    vmo = world.vmo()
    writer = world.start_write(vmo, 0, 4)
    world.fail(vmo, 0)
    world.supply(vmo, 0)
    world.supply(vmo, 2, 2)
    with pytest.raises(IoError):
        writer.result()
    assert world.states(vmo) == "c.cc...."


def test_the_last_latched_error_counts(world: World) -> None:
    vmo = world.vmo()
    writer = world.start_write(vmo, 0, 3)
    world.fail(vmo, 0)
    world.fail(vmo, 0, 2, Status.NO_SPACE)
    with pytest.raises(NoSpaceError):
        writer.result()


def test_fail_overlap_request_latches_on_the_overlap_only(world: World) -> None:
    vmo = world.vmo()
    primary, overlap = world.start_read(vmo, 0, 4), world.start_read(vmo, 1)
    world.packets()
    world.fail(vmo, 1)
    assert not overlap.done
    world.supply(vmo, 2, 2)
    world.supply(vmo, 0)
    with pytest.raises(IoError):
        overlap.result()
    assert not primary.done
    assert world.packets() == ["READ(1,1)"]


def test_overlap_and_primary_fail_together_when_the_failure_begins_before_both(world: World) -> None:
    vmo = world.vmo()
    readers = [world.start_read(vmo, 1, 4), world.start_read(vmo, 2, 1), world.start_read(vmo, 4, 1)]
    world.fail(vmo, 0, 3, Status.IO_DATA_INTEGRITY)
    assert [reader.done for reader in readers] == [True, True, False]
    for reader in readers[:2]:
        with pytest.raises(IoDataIntegrityError):
            reader.result()
    # The third inherited the request, of which two pages are counted.
    assert [(request.range, request.pending_count) for request in world.system.requests] == [((1, 5), 2)]


def test_fail_answers_dirty_requests_too(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    writer = world.start_write(vmo, 0, 2)
    assert world.packets() == ["DIRTY(0,2)"]
    world.fail(vmo, 0, 2)
    with pytest.raises(IoError):
        writer.result()
    assert (world.states(vmo), vmo.modified) == ("cc......", False)


def test_fail_of_the_second_dirty_page_leads_to_a_new_dirty(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    world.start_write(vmo, 0, 2)
    assert world.packets() == ["DIRTY(0,2)"]
    world.fail(vmo, 1)
    vmo.node.make_dirty(PageRange(0, 1), PageEvent.OP_DIRTY)
    world.run()
    assert world.packets() == ["DIRTY(1,1)"]


def test_one_fail_answers_many_requests_and_leaves_the_others(world: World) -> None:
    vmo, other = world.vmo(), world.vmo()
    readers = [world.start_read(vmo, page) for page in (0, 2, 4)]
    stranger = world.start_read(other, 0)
    world.fail(vmo, 0, 3)
    assert [reader.done for reader in (*readers, stranger)] == [True, True, False, False]


def test_a_failed_reader_keeps_nothing_of_what_it_had_read(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 4)
    reader = world.start_read(vmo, 0, 6)
    world.fail(vmo, 4, 2)
    with pytest.raises(IoError, match=r"failed pages \[4,6\)"):
        reader.result()


# Deadlines


def test_requests_raised_before_a_time_expire_with_timed_out(world: World) -> None:
    vmo = world.vmo()
    old = [world.start_read(vmo, 0, 2), world.start_read(vmo, 1)]
    world.now = 10.0
    young = world.start_read(vmo, 4)
    assert [request.range for request in world.system.expire(raised_before=10.0)] == [(0, 2)]
    assert set(world.run()) == set(old)
    for reader in old:
        with pytest.raises(TimedOutError, match="deadline"):
            reader.result()
    assert not young.done
    assert world.packets() == ["READ(4,1)"]


def test_only_the_given_requests_expire_and_answered_ones_are_skipped(world: World) -> None:
    vmo = world.vmo()
    first, second = world.start_read(vmo, 0), world.start_read(vmo, 2)
    pending = world.pager.pending()
    world.supply(vmo, 0)
    world.start_read(vmo, 4)
    assert world.system.expire(raised_before=1.0, requests=pending) == pending[1:]
    world.run()
    assert first.done
    assert second.done
    assert [request.range for request in world.pager.pending()] == [(4, 5)]


# What is kept of it


def test_what_nobody_waits_for_is_not_counted(world: World) -> None:
    vmo = world.vmo()
    world.fail(vmo, 0)
    assert vmo.source.failed is None


def test_what_failed_is_counted_and_the_last_reason_kept(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 1, 2)
    world.pager.op_range(PagerOp.FAIL, vmo, P, P, Status.IO, "the server said 503")
    world.run()
    with pytest.raises(IoError, match=r"the pager failed pages .*: the server said 503"):
        reader.result()
    assert vmo.source.failed == (1, Status.IO, PageRange(1, 2), "the server said 503")
    late = world.start_read(vmo, 3)
    [request] = world.system.requests
    vmo.source.fail_request(request, Status.TIMED_OUT)
    world.run()
    with pytest.raises(TimedOutError, match=r"within the deadline$"):
        late.result()
    assert vmo.source.failed == (2, Status.TIMED_OUT, PageRange(3, 4), "")


def test_the_size_that_could_not_be_written_back_has_no_pages(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True, writeback=True))
    world.start(vmo.set_size(P))
    sync = world.start(vmo.sync())
    assert not sync.done
    world.pager.op_range(PagerOp.FAIL, vmo, 0, 0, Status.NO_SPACE, "the disk is full")
    world.run()
    with pytest.raises(NoSpaceError, match="the disk is full"):
        sync.result()
    assert vmo.source.failed == (1, Status.NO_SPACE, PageRange(0, 0), "the disk is full")
