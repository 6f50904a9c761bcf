"""Dirty zero intervals: growth and splits (zircon-pager 4.2), writeback of intervals (4.6), supply after it (4.7)."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.dirty_harness import P, ack, begin, clean, dirty, end, grown, resize, states, zero
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import OutOfRangeError
from vmofs.units import PageRange

# Growth


def test_what_is_new_is_a_dirty_zero_interval_that_is_never_read(world: World) -> None:
    vmo = grown(world, 1, 10)
    assert states(vmo) == ".zzzzzzzzz"
    assert dirty(world, vmo) == "{1,9,Z}"
    assert world.start_read(vmo, 1, 9).result() == bytes(9 * P)
    assert world.packets() == []
    assert vmo.committed_pages == 0


def test_resize_supply_zero_is_an_ok_no_op(world: World) -> None:
    vmo = grown(world, 1, 4)
    assert world.supply(vmo, 0, 4) == [PageRange(0, 1)]
    assert states(vmo) == "czzz"


def test_growing_again_extends_the_interval(world: World) -> None:
    vmo = grown(world, 1, 3)
    resize(world, vmo, 10)
    assert dirty(world, vmo) == "{1,9,Z}"


def test_regrowing_after_a_shrink_gives_zeros_even_if_the_pages_were_supplied_before(world: World) -> None:
    vmo = grown(world, 4, 4)
    world.supply(vmo, 0, 4)
    resize(world, vmo, 1)
    resize(world, vmo, 4)
    assert states(vmo) == "czzz"
    assert world.start_read(vmo, 1, 3).result() == bytes(3 * P)


def test_writes_split_the_interval(world: World) -> None:
    vmo = grown(world, 1, 10)
    for page in (1, 6, 9):
        world.start_write(vmo, page)
    assert dirty(world, vmo) == "{1,1}{2,4,Z}{6,1}{7,2,Z}{9,1}"


def test_after_end_the_range_is_a_gap_that_may_be_supplied_with_anything(world: World) -> None:
    vmo = grown(world, 1, 4)
    clean(world, vmo, 1, 3)
    assert (states(vmo), dirty(world, vmo)) == ("....", "")
    read = world.start_read(vmo, 1, 3)
    assert world.packets() == ["READ(1,3)"]
    world.supply(vmo, 1, 3)
    assert any(read.result())


# Writeback


@pytest.mark.parametrize("is_zero", [False, True])
def test_begin_that_covers_the_start_makes_the_front_await(world: World, is_zero: bool) -> None:
    vmo = grown(world, 1, 8)
    begin(world, vmo, 0, 4, zero=is_zero)
    assert states(vmo) == ".wwwzzzz"
    assert dirty(world, vmo) == "{1,7,Z}"
    end(world, vmo, 0, 8)
    assert states(vmo) == "....zzzz"


def test_a_shorter_begin_later_does_not_shorten_what_awaits(world: World) -> None:
    vmo = grown(world, 1, 8)
    begin(world, vmo, 1, 4)
    begin(world, vmo, 1, 2)
    assert states(vmo) == ".wwwwzzz"
    begin(world, vmo, 1, 6)
    assert states(vmo) == ".wwwwwwz"


def test_end_without_begin_leaves_the_interval(world: World) -> None:
    vmo = grown(world, 1, 8)
    end(world, vmo, 0, 8)
    assert dirty(world, vmo) == "{1,7,Z}"


def test_begin_inside_an_interval_does_nothing(world: World) -> None:
    vmo = grown(world, 1, 8)
    clean(world, vmo, 3, 5)
    assert states(vmo) == ".zzzzzzz"


def test_resize_writeback_repeated(world: World) -> None:
    vmo = grown(world, 5, 10)
    begin(world, vmo, 5, 2)
    begin(world, vmo, 7, 3)
    end(world, vmo, 5, 2)
    end(world, vmo, 7, 3)
    assert dirty(world, vmo) == "{7,3,Z}"
    clean(world, vmo, 7, 3)
    assert dirty(world, vmo) == ""


def test_what_is_left_of_the_awaiting_length_moves_to_the_new_start(world: World) -> None:
    vmo = grown(world, 1, 5)
    begin(world, vmo, 1, 4)
    end(world, vmo, 1, 2)
    assert states(vmo) == "...ww"
    end(world, vmo, 3, 2)
    assert states(vmo) == "....."


def test_ends_out_of_order_inside_one_interval_leave_the_later_part_dirty(world: World) -> None:
    vmo = grown(world, 1, 5)
    begin(world, vmo, 1, 4)
    end(world, vmo, 3, 2)
    end(world, vmo, 1, 2)
    assert dirty(world, vmo) == "{3,2,Z}"


def test_an_end_one_page_short_of_the_last_keeps_that_page_dirty(world: World) -> None:
    vmo = grown(world, 1, 5)
    begin(world, vmo, 1, 4)
    end(world, vmo, 1, 3)
    assert dirty(world, vmo) == "{4,1,Z}"


def test_resize_writeback_intersecting_write(world: World) -> None:
    vmo = grown(world, 1, 6)
    begin(world, vmo, 1, 5)
    world.start_write(vmo, 3)
    assert states(vmo) == ".wwdzz"
    end(world, vmo, 1, 5)  # covers the left piece's start and reaches the right one
    assert (states(vmo), dirty(world, vmo)) == ("...d..", "{3,1}")


def test_after_a_split_the_right_piece_alone_has_nothing_awaiting(world: World) -> None:
    vmo = grown(world, 1, 6)
    begin(world, vmo, 1, 5)
    world.start_write(vmo, 3)
    end(world, vmo, 4, 2)
    assert dirty(world, vmo) == "{1,2,Z}{3,1}{4,2,Z}"
    end(world, vmo, 1, 2)  # nor does it get any when the left one is cleaned
    end(world, vmo, 4, 2)
    assert dirty(world, vmo) == "{3,1}{4,2,Z}"


def test_a_split_at_the_very_start_moves_the_length_to_the_right(world: World) -> None:
    vmo = grown(world, 1, 6)
    begin(world, vmo, 1, 3)
    world.start_write(vmo, 1)
    assert states(vmo) == ".dwwzz"
    end(world, vmo, 2, 4)
    assert states(vmo) == ".d..zz"


def test_a_write_right_of_what_awaits_does_not_disturb_it(world: World) -> None:
    vmo = grown(world, 1, 8)
    begin(world, vmo, 1, 3)
    world.start_write(vmo, 6)
    end(world, vmo, 1, 7)
    assert states(vmo) == "....zzdz"


def test_writes_at_several_places_leave_gaps_between_dirty_pages(world: World) -> None:
    vmo = grown(world, 0, 10)
    begin(world, vmo, 0, 10)
    for page in (2, 5, 9):
        world.start_write(vmo, page)
    end(world, vmo, 0, 10)
    assert states(vmo) == "..d..d...d"


def test_resize_writeback_intersecting_resize(world: World) -> None:
    vmo = grown(world, 1, 6)
    begin(world, vmo, 1, 5)
    resize(world, vmo, 4)
    with pytest.raises(OutOfRangeError):
        end(world, vmo, 1, 5)
    assert dirty(world, vmo) == "{1,3,Z}"
    end(world, vmo, 1, 3)
    assert dirty(world, vmo) == ""


def test_the_awaiting_length_applies_again_if_the_range_is_regrown_before_end(world: World) -> None:
    vmo = grown(world, 1, 6)
    begin(world, vmo, 1, 4)
    resize(world, vmo, 3)
    resize(world, vmo, 8)
    assert states(vmo) == ".wwwwzzz"
    end(world, vmo, 0, 8)
    assert dirty(world, vmo) == "{5,3,Z}"


def test_growth_after_begin_stays_dirty(world: World) -> None:
    vmo = grown(world, 1, 4)
    begin(world, vmo, 1, 3)
    resize(world, vmo, 8)
    end(world, vmo, 1, 7)
    assert dirty(world, vmo) == "{4,4,Z}"


def test_op_zero_writeback_an_interval_that_zero_extends_to_the_left_awaits_no_more(world: World) -> None:
    vmo = grown(world, 4, 8)
    begin(world, vmo, 4, 4)
    zero(world, vmo, 2, 2)
    assert states(vmo) == "..zzzzzz"
    end(world, vmo, 4, 4)
    end(world, vmo, 0, 8)
    assert dirty(world, vmo) == "{2,6,Z}"


def test_zero_over_a_part_that_awaits_does_not_stop_the_writeback(world: World) -> None:
    vmo = grown(world, 4, 8)
    begin(world, vmo, 4, 4)
    zero(world, vmo, 5, 2)
    assert states(vmo) == "....wwww"


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_under_trap_a_write_to_zeros_asks_first_and_splits_once_it_is_allowed(world: World, pages: int) -> None:
    vmo = grown(world, 0, 8, trap=True)
    begin(world, vmo, 0, 8)
    write = world.start_write(vmo, 2, pages)
    assert world.packets() == [f"DIRTY(2,{pages})"]
    assert states(vmo) == "wwwwwwww"
    ack(world, vmo, 2, pages)
    assert write.done
    assert dirty(world, vmo) == f"{{0,2,Z}}{{2,{pages}}}{{{2 + pages},{6 - pages},Z}}"


def supplied_after_end(world: World) -> PagerVmo:
    """Return a VMO whose grown pages were written back as zeros; copies that readers kept are stale."""
    vmo = grown(world, 0, 4)
    world.start_read(vmo, 0, 4)
    world.system.take_stale()
    clean(world, vmo, 0, 4)
    return vmo


def test_resize_writeback_a_copy_of_zeros_is_stale_after_end(world: World) -> None:
    vmo = supplied_after_end(world)
    assert world.system.take_stale() == {vmo: [PageRange(0, 4)]}
    write = world.start_write(vmo, 1)
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert write.done
