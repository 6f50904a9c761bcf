"""OP_DIRTY and its order of checks (zircon-pager 2.5), DIRTY requests (4.1), writes after detach (3.7)."""

from __future__ import annotations

import pytest

from tests.oracle.world import AUX_KEY, KEY, World
from tests.support.dirty_harness import P, ack, begin, clean, dirty, end, grown, modified, states
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import (
    BadStateError,
    InvalidArgsError,
    IoError,
    NoMemoryError,
    NotFoundError,
    NotSupportedError,
    OutOfRangeError,
)
from vmofs.testing import pattern
from vmofs.units import UINT64_MAX, PageRange
from vmofs.vocabulary import PagerOp

TOP = UINT64_MAX - P + 1  # page aligned; one page more overflows


def mixed(world: World) -> PagerVmo:
    """Return a trapping VMO with a clean page, an awaiting one, a marker, a dirty page, zero pages, and a gap."""
    vmo = grown(world, 6, 8, trap=True)
    world.supply(vmo, 0, 2)
    world.supply(vmo, 2, zero=True)
    world.supply(vmo, 3)
    ack(world, vmo, 1)
    begin(world, vmo, 1)
    ack(world, vmo, 3)
    assert states(vmo) == "camd..zz"
    return vmo


# OP_DIRTY: the order of checks


@pytest.mark.parametrize("op", [PagerOp.DIRTY, PagerOp.WRITEBACK_BEGIN, PagerOp.WRITEBACK_END])
def test_alignment_is_checked_before_the_vmo_and_the_vmo_before_data(world: World, op: PagerOp) -> None:
    stranger = AuxVmo(world.system, P)
    for offset, length in ((1, P), (0, 1)):
        with pytest.raises(InvalidArgsError, match="aligned"):
            world.pager.op_range(op, stranger, offset, length, 77)
    with pytest.raises(InvalidArgsError, match="not made by this pager"):
        world.pager.op_range(op, stranger, 0, P, 77)


@pytest.mark.parametrize("trap", [False, True])
@pytest.mark.parametrize("data", [1, -40, 2**64])
def test_dirty_checks_data_before_anything_else(world: World, data: int, trap: bool) -> None:
    vmo = world.trap_vmo() if trap else world.vmo()
    with pytest.raises(InvalidArgsError, match="DIRTY takes 0 as data"):
        world.pager.op_range(PagerOp.DIRTY, vmo, TOP, P, data)


def test_dirty_checks_for_overflow_before_trap_dirty_and_that_before_the_range(world: World) -> None:
    vmo = world.vmo()
    with pytest.raises(OutOfRangeError, match="overflows"):
        world.pager.op_range(PagerOp.DIRTY, vmo, TOP, P)
    for offset in (0, 8 * P, 100 * P):
        with pytest.raises(NotSupportedError, match="TRAP_DIRTY"):
            world.pager.op_range(PagerOp.DIRTY, vmo, offset, P)
    with pytest.raises(NotSupportedError):
        world.pager.op_range(PagerOp.DIRTY, vmo, 0, 0)


@pytest.mark.parametrize(("page", "pages"), [(8, 1), (7, 2), (100, 1), (9, 0)])
def test_dirty_outside_is_out_of_range_also_when_detached(world: World, page: int, pages: int) -> None:
    vmo = world.trap_vmo()
    for _ in range(2):
        with pytest.raises(OutOfRangeError, match="does not lie inside"):
            ack(world, vmo, page, pages)
        world.pager.detach_vmo(vmo)


def test_dirty_on_a_detached_vmo_is_bad_state_before_pages_are_looked_for(world: World) -> None:
    vmo = world.trap_vmo()
    world.pager.detach_vmo(vmo)
    for pages in (0, 1):
        with pytest.raises(BadStateError, match="detached"):
            ack(world, vmo, 0, pages)


def test_dirty_over_any_gap_is_not_found_and_no_page_changes(world: World) -> None:
    vmo = mixed(world)
    with pytest.raises(NotFoundError, match=r"pages \[4,6\)"):
        ack(world, vmo, 0, 8)
    assert states(vmo) == "camd..zz"
    with pytest.raises(NotFoundError):
        ack(world, vmo, 5)


def test_dirty_without_memory_for_zeros_changes_nothing() -> None:
    world = World(limit_pages=3)
    vmo = world.trap_vmo(4)
    world.supply(vmo, 0, 2)
    world.supply(vmo, 2, 2, zero=True)
    with pytest.raises(NoMemoryError):
        ack(world, vmo, 0, 4)
    assert states(vmo) == "ccmm"
    ack(world, vmo, 0, 3)
    assert states(vmo) == "dddm"
    world.check()


@pytest.mark.parametrize("page", [0, 4, 8])
def test_dirty_of_nothing_is_ok_up_to_the_size(world: World, page: int) -> None:
    vmo = world.trap_vmo()
    ack(world, vmo, page, 0)
    assert states(vmo) == "........"


# OP_DIRTY: what it does


def test_dirty_makes_every_present_page_a_real_dirty_page(world: World) -> None:
    vmo = mixed(world)
    ack(world, vmo, 0, 4)
    ack(world, vmo, 6, 2)
    assert states(vmo) == "dddd..dd"
    assert vmo.committed_pages == 6
    read = world.start_read(vmo, 0, 4).result()
    pattern.check_pages(read[: 2 * P], KEY, PageRange(0, 2))
    assert read[2 * P : 3 * P] == bytes(P)


def test_op_dirty_no_write_needs_no_request(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 2)
    ack(world, vmo, 0, 2)
    ack(world, vmo, 0, 2)  # again: no-op
    assert dirty(world, vmo) == "{0,2}"
    assert world.start_write(vmo, 0, 2).done
    assert world.packets() == []


def test_dirty_between_begin_and_end_keeps_the_page_dirty(world: World) -> None:
    vmo = mixed(world)
    ack(world, vmo, 1)
    end(world, vmo, 1)
    assert states(vmo)[1] == "d"


def test_dirty_does_not_set_modified(world: World) -> None:
    vmo = mixed(world)
    ack(world, vmo, 0, 4)
    assert not modified(world, vmo)


# OP_DIRTY: whom its errors wake


def blocked_writer(world: World, pages: int = 2) -> PagerVmo:
    """Return a VMO of 4 pages of which a writer waits to make the first ones dirty."""
    vmo = world.trap_vmo(4)
    world.supply(vmo, 0, pages)
    world.start_write(vmo, 0, pages)
    assert world.packets() == [f"DIRTY(0,{pages})"]
    return vmo


def test_dirty_beyond_the_end_wakes_waiters_of_the_part_inside_who_ask_again(world: World) -> None:
    vmo = blocked_writer(world)
    with pytest.raises(OutOfRangeError):
        ack(world, vmo, 0, 5)
    world.run()
    assert world.packets() == ["DIRTY(0,2)"]
    assert states(vmo) == "cc.."


@pytest.mark.parametrize(("offset", "length", "data"), [(0, 2 * P, 5), (TOP, P, 0), (5 * P, P, 0)])
def test_dirty_with_bad_arguments_wakes_nobody(world: World, offset: int, length: int, data: int) -> None:
    vmo = blocked_writer(world)
    with pytest.raises((InvalidArgsError, OutOfRangeError)):
        world.pager.op_range(PagerOp.DIRTY, vmo, offset, length, data)
    assert world.run() == []
    assert world.packets() == []
    assert len(world.pager.pending()) == 1


def test_dirty_that_is_not_found_wakes_the_whole_range(world: World) -> None:
    vmo = blocked_writer(world)
    with pytest.raises(NotFoundError):
        ack(world, vmo, 0, 4)
    world.run()
    assert world.packets() == ["DIRTY(0,2)"]


def test_dirty_without_memory_wakes_the_whole_range() -> None:
    world = World(limit_pages=2)
    vmo = world.trap_vmo(4)
    world.supply(vmo, 0, 4, zero=True)
    world.start_write(vmo, 0, 4)
    assert world.packets() == ["DIRTY(0,4)"]
    with pytest.raises(NoMemoryError):
        ack(world, vmo, 0, 4)
    world.run()
    assert world.packets() == ["DIRTY(0,4)"]
    world.check()


def test_delayed_dirty_not_found_sends_read_and_then_dirty_again(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    write = world.start_write(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    vmo.node.evict(PageRange(0, 1))
    with pytest.raises(NotFoundError):
        ack(world, vmo, 0)
    world.run()
    assert world.packets() == ["READ(0,1)"]
    world.supply(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    ack(world, vmo, 0)
    assert write.result() == P
    pattern.check_pages(world.start_read(vmo, 0).result(), AUX_KEY, PageRange(0, 1))


# Writes without TRAP_DIRTY


def test_without_trap_the_first_write_makes_dirty_with_no_packet(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 3)
    assert world.start_write(vmo, 1).result() == P
    assert world.packets() == []
    assert states(vmo) == "cdc....."
    assert modified(world, vmo)


def test_without_trap_a_write_dirties_the_first_run_of_committed_pages_before_it_waits(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 3)
    write = world.start_write(vmo, 0, 6)
    assert (world.packets(), states(vmo)) == (["READ(3,3)"], "ddd.....")
    world.fail(vmo, 3, 3)
    with pytest.raises(IoError):
        write.result()
    assert states(vmo) == "ddd....."  # a failed write leaves its pages dirty
    assert modified(world, vmo)  # ModifiedOnPartialVmoWrite


def test_without_trap_a_write_of_a_few_bytes_reads_the_page_first(world: World) -> None:
    vmo = world.vmo()
    write = world.start(vmo.write(2 * P + 5, b"hello"))
    assert world.packets() == ["READ(2,1)"]
    world.supply(vmo, 2, zero=True)
    assert write.result() == 5
    assert states(vmo) == "..d....."
    assert world.start_read(vmo, 2).result() == bytes(5) + b"hello" + bytes(P - 10)


# DIRTY requests


def test_simple_trap_dirty(world: World) -> None:
    vmo = world.trap_vmo(1)
    world.supply(vmo, 0)
    assert states(vmo) == "c"
    write = world.start(vmo.write(8, b"x" * 8))
    assert world.packets() == ["DIRTY(0,1)"]
    assert not write.done
    ack(world, vmo, 0)
    assert write.result() == 8
    assert dirty(world, vmo) == "{0,1}"


def test_a_write_to_an_absent_page_is_read_first_and_dirty_second(world: World) -> None:
    vmo = world.trap_vmo()
    write = world.start_write(vmo, 3, 2)
    assert world.packets() == ["READ(3,2)"]
    world.supply(vmo, 3, 2)
    assert world.packets() == ["DIRTY(3,2)"]
    ack(world, vmo, 3, 2)
    assert write.result() == 2 * P


def test_a_dirty_request_mixes_clean_awaiting_markers_and_zeros_and_stops_at_a_dirty_page(world: World) -> None:
    vmo = mixed(world)
    world.start_write(vmo, 0, 8)
    assert world.packets() == ["DIRTY(0,3)"]
    ack(world, vmo, 0, 3)
    assert world.packets() == ["READ(4,2)"]
    world.supply(vmo, 4, 2)
    assert world.packets() == ["DIRTY(4,4)"]


def test_dirty_requests_for_zero_ranges(world: World) -> None:
    vmo = world.trap_vmo(10)
    for page in range(4, 9):
        world.supply(vmo, page, zero=bool(page % 2))
    write = world.start_write(vmo, 4, 6)
    assert world.packets() == ["DIRTY(4,5)"]
    ack(world, vmo, 4, 5)
    assert world.packets() == ["READ(9,1)"]
    world.supply(vmo, 9)
    assert world.packets() == ["DIRTY(9,1)"]
    ack(world, vmo, 9)
    assert write.done
    assert states(vmo) == "....dddddd"


def test_resize_dirty_request(world: World) -> None:
    vmo = grown(world, 1, 8, trap=True)
    world.supply(vmo, 0)
    for page in (1, 2, 4):
        ack(world, vmo, page)
    assert states(vmo) == "cddzdzzz"
    write = world.start_write(vmo, 0, 8)
    for packet, page, pages in (("DIRTY(0,1)", 0, 1), ("DIRTY(3,1)", 3, 1), ("DIRTY(5,3)", 5, 3)):
        assert world.packets() == [packet]
        ack(world, vmo, page, pages)
    assert write.done
    assert dirty(world, vmo) == "{0,8}"


def test_op_dirty_may_cover_more_than_was_asked_and_later_writes_do_not_ask(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 8)
    world.start_write(vmo, 2)
    ack(world, vmo, 0, 8)
    assert world.start_write(vmo, 0, 8).done
    assert world.packets() == []


def test_reads_and_commits_of_clean_pages_send_no_dirty(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 4)
    world.supply(vmo, 4, 4, zero=True)
    assert world.start_read(vmo, 0, 8).done
    assert world.start(vmo.commit(0, 8 * P)).done
    assert world.packets() == []
    assert dirty(world, vmo) == ""


@pytest.mark.parametrize("marker", [False, True])
def test_a_refused_dirty_request_leaves_state_content_and_modified(world: World, marker: bool) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, zero=marker)
    before = world.start_read(vmo, 0).result()
    write = world.start_write(vmo, 0)
    world.fail(vmo, 0)
    with pytest.raises(IoError):
        write.result()
    assert states(vmo)[0] == ("m" if marker else "c")
    assert world.start_read(vmo, 0).result() == before
    assert not modified(world, vmo)


def test_dirty_requests_overlap(world: World) -> None:
    vmo = world.trap_vmo(20)
    world.supply(vmo, 0, 20)
    world.start_write(vmo, 11, 5)
    world.start_write(vmo, 15, 4)  # starts inside: waits silently behind [11,16)
    assert world.packets() == ["DIRTY(11,5)"]
    ack(world, vmo, 11, 5)
    assert world.packets() == ["DIRTY(16,3)"]
    world.start_write(vmo, 4, 5)
    world.start_write(vmo, 2, 7)  # starts before: trimmed
    assert world.packets() == ["DIRTY(4,5)", "DIRTY(2,2)"]


def test_read_and_dirty_requests_do_not_interact(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    world.start_write(vmo, 0)
    vmo.node.evict(PageRange(0, 1))
    read = world.start_read(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)", "READ(0,1)"]
    world.supply(vmo, 0)
    assert read.done
    assert len(world.pager.pending()) == 1


def test_large_write_batched(world: World) -> None:
    vmo = world.trap_vmo(40)
    write = world.start_write(vmo, 0, 40)
    for page, pages in ((0, 16), (16, 16), (32, 8)):
        assert world.packets() == [f"READ({page},{pages})"]
        world.supply(vmo, page, pages)
        assert world.packets() == [f"DIRTY({page},{pages})"]
        ack(world, vmo, page, pages)
    assert write.result() == 40 * P
    pattern.check_pages(world.start_read(vmo, 0, 40).result(), AUX_KEY, PageRange(0, 40))


def test_a_write_of_nothing_asks_for_nothing_and_changes_nothing(world: World) -> None:
    vmo = world.trap_vmo()
    assert world.start(vmo.write(8 * P, b"")).result() == 0
    assert world.packets() == []
    assert not modified(world, vmo)


def test_a_writer_waits_until_every_page_of_its_request_is_answered(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 4)
    write = world.start_write(vmo, 0, 4)
    ack(world, vmo, 0, 2)
    assert not write.done  # a write has no early wake
    ack(world, vmo, 2, 2)
    assert write.result() == 4 * P
    assert world.packets() == []  # answered before it was dequeued


# After detach


def detached(world: World, *, trap: bool) -> PagerVmo:
    """Return a detached VMO with a dirty page, an awaiting one, one cleaned after the detach, zeros and a gap."""
    vmo = grown(world, 4, 6, trap=trap)
    world.supply(vmo, 0, 4)
    if trap:
        ack(world, vmo, 0, 3)
    else:
        world.start_write(vmo, 0, 3)
    begin(world, vmo, 1, 2)
    world.pager.detach_vmo(vmo)
    end(world, vmo, 2)
    assert states(vmo) == "dac.zz"
    assert world.packets()[-1] == "COMPLETE"
    return vmo


def test_no_dirty_requests_after_detach(world: World) -> None:
    vmo = detached(world, trap=True)
    assert world.start_write(vmo, 0).done
    for page in (1, 2, 3, 4):
        with pytest.raises(BadStateError):
            world.start_write(vmo, page).result()
    assert states(vmo) == "dac.zz"
    assert world.packets() == []


def test_without_trap_kept_pages_are_written_after_detach_as_before(world: World) -> None:
    vmo = detached(world, trap=False)
    for page in (0, 1, 2, 4):
        assert world.start_write(vmo, page).result() == P
    with pytest.raises(BadStateError):
        world.start_write(vmo, 3).result()
    assert states(vmo) == "ddd.dz"


def test_writeback_and_queries_work_after_detach(world: World) -> None:
    vmo = detached(world, trap=True)
    assert dirty(world, vmo) == "{0,2}{4,2,Z}"
    clean(world, vmo, 0, 6)
    assert (dirty(world, vmo), states(vmo)) == ("", "ccc...")
    assert not modified(world, vmo)
