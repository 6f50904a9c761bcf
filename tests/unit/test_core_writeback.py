"""WRITEBACK_BEGIN and WRITEBACK_END on pages (zircon-pager 4.5), query_dirty_ranges (2.6, 4.4)."""

from __future__ import annotations

import itertools

import pytest

from tests.oracle.world import AUX_KEY, KEY, World
from tests.support.dirty_harness import P, ack, begin, clean, dirty, end, grown, modified, resize, states
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import InvalidArgsError, IoError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import UINT64_MAX, PageRange
from vmofs.vocabulary import DirtyRange, PagerOp

TOP = UINT64_MAX - P + 1


def written(world: World, pages: int = 8, *, trap: bool = False) -> PagerVmo:
    """Return a VMO whose pages are all dirty."""
    vmo = world.trap_vmo(pages) if trap else world.vmo(pages)
    world.supply(vmo, 0, pages)
    if trap:
        ack(world, vmo, 0, pages)
    else:
        assert world.start_write(vmo, 0, pages).done
    return vmo


def test_dirty_pages_are_those_that_were_not_written_back_yet(world: World) -> None:
    vmo = grown(world, 4, 6)
    world.supply(vmo, 0, 4)
    assert vmo.dirty_pages == 2  # zeros
    assert world.start_write(vmo, 0, 3).done
    begin(world, vmo, 0)
    assert vmo.dirty_pages == 5
    clean(world, vmo, 0, 2)
    assert vmo.dirty_pages == 3


# The order of checks


@pytest.mark.parametrize(
    ("op", "data"),
    [
        (PagerOp.WRITEBACK_BEGIN, 2),
        (PagerOp.WRITEBACK_BEGIN, 3),
        (PagerOp.WRITEBACK_BEGIN, -1),
        (PagerOp.WRITEBACK_END, 1),
        (PagerOp.WRITEBACK_END, 2**32),
    ],
)
def test_unknown_data_is_refused_before_the_range(world: World, op: PagerOp, data: int) -> None:
    vmo = written(world)
    with pytest.raises(InvalidArgsError, match=f"{op.name} takes"):
        world.pager.op_range(op, vmo, TOP, P, data)


@pytest.mark.parametrize("op", [PagerOp.WRITEBACK_BEGIN, PagerOp.WRITEBACK_END])
@pytest.mark.parametrize(("offset", "length"), [(8 * P, P), (7 * P, 2 * P), (TOP, P), (9 * P, 0)])
def test_begin_and_end_outside_are_out_of_range_and_nothing_changes(
    world: World, op: PagerOp, offset: int, length: int
) -> None:
    vmo = written(world)
    begin(world, vmo, 0, 4)
    begin(world, vmo, 7)
    with pytest.raises(OutOfRangeError):
        world.pager.op_range(op, vmo, offset, length)
    assert states(vmo) == "aaaaddda"


@pytest.mark.parametrize("page", [0, 3, 8])
def test_begin_and_end_of_nothing_are_ok_up_to_the_size(world: World, page: int) -> None:
    vmo = written(world)
    begin(world, vmo, page, 0)
    begin(world, vmo, page, 0, zero=True)
    end(world, vmo, page, 0)
    assert states(vmo) == "dddddddd"


@pytest.mark.parametrize("trap", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_begin_and_end_work_with_and_without_trap_and_after_detach(world: World, trap: bool, detach: bool) -> None:
    vmo = written(world, trap=trap)
    if detach:
        world.pager.detach_vmo(vmo)
    begin(world, vmo, 1, 2)
    assert states(vmo) == "daaddddd"
    end(world, vmo, 0, 8)
    assert states(vmo) == "dccddddd"


# What they do to pages


def test_begin_makes_dirty_pages_await_and_end_makes_them_clean(world: World) -> None:
    vmo = written(world)
    begin(world, vmo, 2, 3)
    assert states(vmo) == "ddaaaddd"
    assert dirty(world, vmo) == "{0,8}"  # still reported
    end(world, vmo, 0, 4)
    assert states(vmo) == "ddccaddd"
    assert dirty(world, vmo) == "{0,2}{4,4}"
    pattern.check_pages(world.start_read(vmo, 0, 8).result(), AUX_KEY, PageRange(0, 8))


def test_begin_leaves_clean_pages_markers_and_gaps_alone(world: World) -> None:
    vmo = world.vmo(4)
    world.supply(vmo, 0)
    world.supply(vmo, 1, zero=True)
    clean(world, vmo, 0, 4)
    assert states(vmo) == "cm.."


def test_end_without_begin_is_ok_and_does_nothing(world: World) -> None:
    vmo = written(world)
    end(world, vmo, 0, 8)
    assert states(vmo) == "dddddddd"


def test_begin_of_zeros_skips_committed_pages(world: World) -> None:
    vmo = written(world)
    begin(world, vmo, 0, 4)
    begin(world, vmo, 0, 8, zero=True)
    end(world, vmo, 0, 8)
    assert states(vmo) == "ccccdddd"


def test_resize_writeback_dirty_after_query(world: World) -> None:
    vmo = grown(world, 1, 4)
    world.supply(vmo, 0)
    assert dirty(world, vmo) == "{1,3,Z}"
    world.start_write(vmo, 2)  # after the query, before the BEGIN
    begin(world, vmo, 1, 3, zero=True)
    end(world, vmo, 1, 3)
    assert dirty(world, vmo) == "{2,1}"
    assert states(vmo) == "c.d."


def test_without_trap_a_write_between_begin_and_end_keeps_its_page_dirty(world: World) -> None:
    vmo = written(world)
    begin(world, vmo, 0, 4)
    world.start_write(vmo, 1)
    assert states(vmo) == "adaadddd"
    end(world, vmo, 0, 4)
    assert states(vmo) == "cdccdddd"


def test_dirty_during_writeback_acknowledged_first_stays_dirty(world: World) -> None:
    vmo = written(world, 2, trap=True)
    begin(world, vmo, 0, 2)
    write = world.start_write(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    ack(world, vmo, 0)
    assert write.done
    end(world, vmo, 0, 2)
    assert states(vmo) == "dc"


def test_dirty_during_writeback_ended_first_leaves_the_writer_blocked_with_its_request(world: World) -> None:
    vmo = written(world, 2, trap=True)
    begin(world, vmo, 0, 2)
    write = world.start_write(vmo, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    end(world, vmo, 0, 2)
    assert (states(vmo), write.done, world.packets()) == ("cc", False, [])
    ack(world, vmo, 0)
    assert write.result() == P
    assert states(vmo) == "dc"


def test_writeback_with_a_refused_write_cleans_the_page(world: World) -> None:
    vmo = written(world, 1, trap=True)
    begin(world, vmo, 0)
    write = world.start_write(vmo, 0)
    world.fail(vmo, 0)
    with pytest.raises(IoError):
        write.result()
    end(world, vmo, 0)
    assert states(vmo) == "c"
    pattern.check_pages(world.start_read(vmo, 0).result(), KEY, PageRange(0, 1))


def test_begin_and_end_are_idempotent(world: World) -> None:
    vmo = written(world, 4)
    for _ in range(2):
        begin(world, vmo, 0, 3)
        assert states(vmo) == "aaad"
    for _ in range(2):
        end(world, vmo, 0, 4)
        assert states(vmo) == "cccd"


@pytest.mark.parametrize("begins", list(itertools.permutations([(0, 2), (1, 2), (3, 1)])))
@pytest.mark.parametrize("ends", [[(0, 4)], [(2, 2), (0, 2)], [(3, 1), (1, 1), (0, 1), (2, 1)]])
def test_writeback_out_of_order_and_combined_in_any_way(
    world: World, begins: list[tuple[int, int]], ends: list[tuple[int, int]]
) -> None:
    vmo = written(world, 4)
    for page, pages in begins:
        begin(world, vmo, page, pages)
    for page, pages in ends:
        end(world, vmo, page, pages)
    assert (states(vmo), dirty(world, vmo)) == ("cccc", "")


def test_there_is_no_abort_and_a_second_round_may_follow(world: World) -> None:
    vmo = written(world, 2)
    begin(world, vmo, 0, 2)
    assert dirty(world, vmo) == "{0,2}"
    world.start_write(vmo, 1)
    clean(world, vmo, 0, 2)
    assert dirty(world, vmo) == ""


def test_begin_and_end_leave_modified_as_it_is(world: World) -> None:
    vmo = written(world, 2)
    clean(world, vmo, 0, 2)
    assert modified(world, vmo)
    world.start_write(vmo, 0)
    assert modified(world, vmo)
    clean(world, vmo, 0, 2)
    assert not modified(world, vmo)


def test_a_cleaned_page_can_be_evicted_and_is_read_again(world: World) -> None:
    vmo = written(world, 2)
    clean(world, vmo, 0)
    assert world.pager.evict(vmo, 0, 2 * P) == [PageRange(0, 1)]
    world.start_read(vmo, 0)
    assert world.packets() == ["READ(0,1)"]


# query_dirty_ranges


def test_query_is_refused_for_vmos_of_others_before_the_range(world: World) -> None:
    for stranger in (AuxVmo(world.system, P), World().vmo()):
        with pytest.raises(InvalidArgsError, match="not made by this pager"):
            world.pager.query_dirty_ranges(stranger, TOP, P)


@pytest.mark.parametrize(("offset", "length"), [(8 * P, 1), (0, 8 * P + 1), (TOP, P), (UINT64_MAX, 1)])
def test_query_outside_is_out_of_range(world: World, offset: int, length: int) -> None:
    with pytest.raises(OutOfRangeError):
        world.pager.query_dirty_ranges(written(world), offset, length)


def test_query_rounds_its_window_outward_and_cuts_records_to_it(world: World) -> None:
    vmo = grown(world, 3, 6)
    world.supply(vmo, 0, 3)
    world.start_write(vmo, 0, 3)
    query = world.pager.query_dirty_ranges
    assert query(vmo, P + 1, 1) == [DirtyRange(PageRange(1, 2), is_zero=False)]
    assert dirty(world, vmo, 2, 2) == "{2,1}{3,1,Z}"
    assert query(vmo, 4 * P - 1, 2) == [DirtyRange(PageRange(3, 5), is_zero=True)]
    assert query(vmo, P + 1, 0) == []


def test_dirty_and_awaiting_pages_melt_into_one_record(world: World) -> None:
    vmo = written(world)
    begin(world, vmo, 1, 2)
    begin(world, vmo, 5)
    assert states(vmo) == "daadda" + "dd"
    assert dirty(world, vmo) == "{0,8}"


def test_pages_and_zero_intervals_never_share_a_record(world: World) -> None:
    vmo = grown(world, 2, 6)
    world.supply(vmo, 0, 2)
    world.start_write(vmo, 1)
    world.start_write(vmo, 4)
    assert states(vmo) == "cdzzdz"
    assert dirty(world, vmo) == "{1,1}{2,2,Z}{4,1}{5,1,Z}"


def test_markers_clean_pages_and_gaps_end_a_record_and_are_not_reported(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0, 3)
    world.supply(vmo, 3, zero=True)
    world.supply(vmo, 4)
    world.supply(vmo, 6)
    for page in (0, 2, 4, 6):
        ack(world, vmo, page)
    assert states(vmo) == "dcdmd.d."
    assert dirty(world, vmo) == "{0,1}{2,1}{4,1}{6,1}"


def test_adjacent_zero_intervals_are_one_record(world: World) -> None:
    vmo = grown(world, 1, 3)
    resize(world, vmo, 8)
    assert dirty(world, vmo) == "{1,7,Z}"
    begin(world, vmo, 1, 2)
    assert dirty(world, vmo) == "{1,7,Z}"  # partly awaiting: no difference


def test_query_works_detached_and_has_no_side_effect(world: World) -> None:
    vmo = written(world)
    world.pager.detach_vmo(vmo)
    for _ in range(2):
        assert dirty(world, vmo) == "{0,8}"
    assert modified(world, vmo)
