"""zx_pager_supply_pages: the order of its checks, and what it does to each page (zircon-pager 2.4)."""

from __future__ import annotations

import pytest
import xxhash

from tests.oracle.world import AUX_KEY, KEY, World
from vmofs.core.pager import Pager
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, InvalidArgsError, IoDataIntegrityError, NotSupportedError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange
from vmofs.vocabulary import AuxKind

P = PAGE_SIZE


def test_supplied_pages_move_out_of_the_aux(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(2, 3)
    used = world.system.frames.statistics().used
    assert world.pager.supply_pages(vmo, 2 * P, 3 * P, aux, 0) == [PageRange(2, 5)]
    assert world.states(vmo) == "..ccc..."
    assert (aux.committed_pages, vmo.committed_pages) == (0, 3)
    assert world.system.frames.statistics().used == used
    assert bytes(aux.read_nowait(0, 3 * P)) == bytes(3 * P)
    pattern.check_pages(world.start_read(vmo, 2, 3).result(), KEY, PageRange(2, 5))


def test_supplying_moves_pages_and_needs_no_memory() -> None:
    world = World(limit_pages=3)
    vmo, aux = world.vmo(), world.aux(0, 3)
    assert world.pager.supply_pages(vmo, 0, 3 * P, aux, 0) == [PageRange(0, 3)]
    empty = AuxVmo(world.system, 3 * P)
    assert world.pager.supply_pages(vmo, 3 * P, 3 * P, empty, 0) == [PageRange(3, 6)]
    assert (world.states(vmo), world.system.frames.statistics().used) == ("cccmmm..", 3)


@pytest.mark.parametrize("misaligned", [(1, P, 0), (0, 1, 0), (0, P, 1)])
def test_supply_checks_alignment_before_handles(world: World, misaligned: tuple[int, int, int]) -> None:
    offset, length, aux_offset = misaligned
    stranger = AuxVmo(world.system)
    with pytest.raises(InvalidArgsError, match="not page aligned"):
        world.pager.supply_pages(stranger, offset, length, stranger, aux_offset)


def test_supply_checks_the_vmo_before_the_aux(world: World) -> None:
    theirs = Pager(world.system).create_vmo(world.port, world.vmo().source.key, P)
    physical = AuxVmo(world.system, P, AuxKind.PHYSICAL)
    for stranger in (theirs, AuxVmo(world.system, P)):
        with pytest.raises(InvalidArgsError, match="not made by this pager"):
            world.pager.supply_pages(stranger, 0, P, physical, 0)


@pytest.mark.parametrize("kind", [AuxKind.PHYSICAL, AuxKind.CONTIGUOUS])
def test_physical_and_contiguous_aux_is_refused_before_its_range(world: World, kind: AuxKind) -> None:
    with pytest.raises(NotSupportedError, match=kind.value):
        world.pager.supply_pages(world.vmo(), 0, P, AuxVmo(world.system, 0, kind), 0)


@pytest.mark.parametrize(("aux_offset", "length"), [(2 * P, P), (P, 2 * P), (UINT64_MAX - P + 1, P)])
def test_the_whole_aux_range_must_lie_inside_the_aux_even_if_uncommitted(
    world: World, aux_offset: int, length: int
) -> None:
    vmo = world.vmo()
    with pytest.raises(OutOfRangeError, match="aux range"):
        world.pager.supply_pages(vmo, 0, length, AuxVmo(world.system, 2 * P), aux_offset)
    assert world.states(vmo) == "........"


def test_a_pager_vmo_is_no_aux_not_even_the_destination_itself(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    for aux in (vmo, world.vmo()):
        with pytest.raises(NotSupportedError):
            world.pager.supply_pages(vmo, 0, P, aux, 0)
    with pytest.raises(OutOfRangeError):  # its range is looked at first
        world.pager.supply_pages(vmo, 0, P, vmo, 8 * P)
    assert world.states(vmo) == "cc......"


def test_a_pinned_aux_page_is_bad_state_and_nothing_moves(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 3)
    aux.pinned.add(PageRange(2, 3))
    with pytest.raises(BadStateError, match="pinned"):
        world.pager.supply_pages(vmo, 0, 3 * P, aux, 0)
    assert aux.committed_pages == 3
    assert world.pager.supply_pages(vmo, 0, 2 * P, aux, 0) == [PageRange(0, 2)]


@pytest.mark.parametrize(("offset", "length"), [(8 * P, P), (7 * P, 2 * P), (UINT64_MAX - P + 1, P)])
def test_a_destination_out_of_range_costs_the_aux_its_content(world: World, offset: int, length: int) -> None:
    vmo, aux = world.vmo(), world.aux(0, 2)
    with pytest.raises(OutOfRangeError):
        world.pager.supply_pages(vmo, offset, length, aux, 0)
    assert aux.committed_pages == 2 - length // P
    assert vmo.committed_pages == 0


def test_a_detached_destination_costs_the_aux_its_content(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 2)
    world.pager.detach_vmo(vmo)
    with pytest.raises(OutOfRangeError):  # the range is looked at first
        world.pager.supply_pages(vmo, 8 * P, P, aux, P)
    with pytest.raises(BadStateError, match="detached"):
        world.pager.supply_pages(vmo, 0, P, aux, 0)
    assert aux.committed_pages == 0


def test_zero_length_is_ok_beyond_every_end_and_on_a_detached_vmo(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 1)
    assert world.pager.supply_pages(vmo, 0, 0, aux, 0) == []
    assert world.pager.supply_pages(vmo, 80 * P, 0, aux, 80 * P) == []
    assert world.pager.supply_pages(vmo, 0, 0, vmo, 0) == []
    world.pager.detach_vmo(vmo)
    assert world.pager.supply_pages(vmo, 80 * P, 0, aux, 0) == []
    assert aux.committed_pages == 1
    with pytest.raises(NotSupportedError):
        world.pager.supply_pages(vmo, 0, 0, AuxVmo(world.system, P, AuxKind.PHYSICAL), 0)


def test_overlap_supply_keeps_present_pages_and_frees_their_replacement(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 2, 2)
    wrong = world.aux(0, 8, key=AUX_KEY)
    assert world.pager.supply_pages(vmo, P, 5 * P, wrong, P) == [PageRange(1, 2), PageRange(4, 6)]
    pattern.check_pages(world.start_read(vmo, 2, 2).result(), KEY, PageRange(2, 4))
    pattern.check_pages(world.start_read(vmo, 4, 2).result(), AUX_KEY, PageRange(4, 6))
    assert world.system.frames.statistics().used == 5 + 3


def test_supply_cannot_overwrite_a_zero_page(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2, zero=True)
    assert world.supply(vmo, 0, 3) == [PageRange(2, 3)]
    assert world.start_read(vmo, 0, 2).result() == bytes(2 * P)
    assert world.states(vmo)[:3] == "mmc"


def test_supply_cannot_overwrite_dirty_pages_nor_untracked_zeros(world: World) -> None:
    vmo = world.vmo(size=3 * P, options=VmoOptions(unbounded=True))
    world.supply(vmo, 0, 1)
    world.start_write(vmo, 0)
    assert world.supply(vmo, 0, 5) == [PageRange(1, 3)]
    assert world.states(vmo)[:5] == "dccuu"
    pattern.check_pages(world.start_read(vmo, 0).result(), AUX_KEY, PageRange(0, 1))


def test_an_uncommitted_aux_page_gives_a_marker_that_occupies_nothing(world: World) -> None:
    vmo, aux = world.vmo(), AuxVmo(world.system, 3 * P)
    aux.write_nowait(P, pattern.make_pages(KEY, PageRange(1, 2)))
    world.pager.supply_pages(vmo, 0, 3 * P, aux, 0)
    assert world.states(vmo)[:4] == "mcm."
    assert vmo.committed_pages == 1
    assert world.start_read(vmo, 0, 3).result() == bytes(P) + pattern.make_pages(KEY, PageRange(1, 2)) + bytes(P)


def test_pages_go_where_they_are_sent_whatever_their_place_in_the_aux(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 6)
    world.pager.supply_pages(vmo, 5 * P, 2 * P, aux, 2 * P)
    world.pager.supply_pages(vmo, P, P, aux, 5 * P)
    pattern.check_pages(world.start_read(vmo, 5, 2).result(), KEY, PageRange(2, 4))
    pattern.check_pages(world.start_read(vmo, 1).result(), KEY, PageRange(5, 6))


def test_supply_needs_no_request_and_makes_none(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 8)
    assert world.start_read(vmo, 0, 8).done
    assert world.packets() == []
    assert not vmo.modified


def test_the_rest_of_the_last_page_reads_zero_whatever_was_supplied(world: World) -> None:
    vmo = world.vmo(size=P + 100)
    aux = world.aux(0, 2)
    world.pager.supply_pages(vmo, 0, 2 * P, aux, 0)
    data = world.start_read(vmo, 0, 2).result()
    pattern.check(data[: P + 100], KEY)
    assert not any(data[P + 100 :])


def test_a_marker_at_the_end_of_the_content_stays_a_marker(world: World) -> None:
    vmo = world.vmo(size=P + 100)
    world.supply(vmo, 1, zero=True)
    assert vmo.state_at(1) is PageState.MARKER


def test_a_wrong_sum_moves_nothing(world: World) -> None:
    vmo, aux = world.vmo(), world.aux(0, 2)
    right = xxhash.xxh3_64_intdigest(pattern.make_pages(KEY, PageRange(0, 2)))
    with pytest.raises(IoDataIntegrityError, match="nothing was moved"):
        world.pager.supply_pages(vmo, 0, 2 * P, aux, 0, right ^ 1)
    assert (aux.committed_pages, world.states(vmo)) == (2, "........")
    assert world.pager.supply_pages(vmo, 0, 2 * P, aux, 0, right) == [PageRange(0, 2)]


def test_the_statistics_count_filled_and_redundant_pages(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0, 8)
    world.supply(vmo, 1, 2)
    world.supply(vmo, 0, 4)
    world.fail(vmo, 4)
    counts = world.pager.statistics()
    assert (counts.vmos, counts.supply_calls_total, counts.fail_calls_total) == (1, 2, 1)
    assert (counts.pages_supplied_total, counts.pages_redundant_total) == (4, 2)
    pages = vmo.statistics()
    assert (pages.size_pages, pages.clean, pages.marker, pages.runs) == (8, 4, 0, len(vmo.node.runs))


def test_a_vmo_is_rounded_up_and_keeps_the_exact_size(world: World) -> None:
    vmo = world.vmo(size=P + 1)
    assert (vmo.size_pages, vmo.stream_size) == (2, P + 1)
    assert world.vmo(size=0).size_pages == 0
    assert world.states(world.vmo(size=0, options=VmoOptions(unbounded=True))) == "u" * 64


@pytest.mark.parametrize("size", [MAX_VMO_BYTES + 1, UINT64_MAX - P + 2, UINT64_MAX])
def test_creation_refuses_sizes_above_the_largest(world: World, size: int) -> None:
    for unbounded in (False, True):
        with pytest.raises(OutOfRangeError):
            world.vmo(size=size, options=VmoOptions(unbounded=unbounded))
    with pytest.raises(InvalidArgsError):  # comes first
        world.vmo(size=size, options=VmoOptions(unbounded=True, resizable=True))
    assert world.packets() == []


def test_creation_at_a_closed_pager_is_bad_state(world: World) -> None:
    world.pager.close()
    with pytest.raises(BadStateError):
        world.vmo()


def test_the_largest_vmo_costs_its_runs_only(world: World) -> None:
    vmo: PagerVmo = world.vmo(size=MAX_VMO_BYTES)
    last = vmo.size_pages - 1
    world.supply(vmo, last)
    pattern.check_pages(world.start_read(vmo, last).result(), KEY, PageRange(last, last + 1))
