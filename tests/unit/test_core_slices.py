"""Calls that have much to do rest in between, and come to the same as in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, ON_WRITE, clone
from tests.support.dirty_harness import P, dirty, states
from vmofs.core.operations import op_range
from vmofs.core.pages.spans import SLICE, Spans
from vmofs.core.requests.access import Access, Steps
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerVmo
from vmofs.status import BadStateError, IoError, NotFoundError, OutOfRangeError, Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind, PagerOp, VmoOp

PAGES = 5 * SLICE


def rests_of(world: World, access: Access[Any]) -> int:
    """Carry out a call as an edge does that lets others have their turn; return how often they had."""
    access.may_rest = True
    access.start(world.now)
    rests = 0
    while access.is_resting:
        rests += 1
        access.go_on(world.now)
    return rests


def fragmented(world: World, *, gaps: bool = True, trap: bool = False, key: int = 0) -> PagerVmo:
    """Return a VMO whose pages are absent, clean, zeroed, dirty, markers, and so on."""
    options = VmoOptions(resizable=True, trap_dirty=trap, writeback=True)
    vmo = world.vmo(PAGES, options=options, key=key * pattern.KEY_STEP)
    for page in range(0, PAGES, 5):
        if not gaps:
            world.supply(vmo, page, zero=True)
        world.supply(vmo, page + 1)
        world.start(vmo.op_zero((page + 2) * P, P)).result()
        world.supply(vmo, page + 3)
        if not trap:
            world.start_write(vmo, page + 3).result()
        world.supply(vmo, page + 4, zero=True)
    return vmo


def seen(world: World, vmo: PagerVmo) -> tuple[object, ...]:
    return states(vmo, PAGES), dirty(world, vmo), vmo.size_pages, vmo.stream_size, list(vmo.pinned), vmo.modified


def run(steps: Steps[Any]) -> Access[Any]:
    return Access(steps)


CALLS: dict[str, tuple[Callable[[World, PagerVmo], Access[Any]], bool]] = {
    "evict": (lambda world, vmo: run(world.pager.evict_steps(vmo, 0, PAGES * P)), True),
    "detach": (lambda world, vmo: run(world.pager.detach_steps(vmo)), True),
    "begin": (
        lambda world, vmo: run(world.pager.op_range_steps(PagerOp.WRITEBACK_BEGIN, vmo, 0, PAGES * P)),
        True,
    ),
    "end": (lambda world, vmo: run(world.pager.op_range_steps(PagerOp.WRITEBACK_END, vmo, 0, PAGES * P)), True),
    "query": (lambda world, vmo: run(world.pager.query_dirty_ranges_steps(vmo, 0, PAGES * P)), True),
    "zero": (lambda _, vmo: vmo.op_zero(0, PAGES * P), True),
    "set_size": (lambda _, vmo: vmo.set_size(P), True),
    "set_stream_size": (lambda _, vmo: vmo.set_stream_size(P), True),
    "prefetch": (lambda _, vmo: vmo.prefetch(0, PAGES * P), False),
    "always_need": (lambda _, vmo: vmo.always_need(0, PAGES * P), False),
    "commit": (lambda _, vmo: vmo.commit(0, PAGES * P), False),
    "pin": (lambda _, vmo: vmo.pin(0, PAGES * P), False),
    "pin to write": (lambda _, vmo: vmo.pin(0, PAGES * P, write=True), False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_rests_does_what_it_does_in_one_go(world: World, name: str) -> None:
    call, gaps = CALLS[name]
    other = World()
    one, two = fragmented(world, gaps=gaps), fragmented(other, gaps=gaps)
    result = world.start(call(world, one)).result()
    access = call(other, two)
    assert rests_of(other, access) >= 2
    assert seen(world, one) == seen(other, two)
    assert name in {"pin", "pin to write"} or access.result() == result or name in {"evict", "detach"}
    other.check()


def test_pages_are_awaited_and_cleaned_across_slices(world: World) -> None:
    """The query melts what lies together, wherever it was cut."""
    vmo = world.vmo(3 * SLICE, options=VmoOptions(writeback=True))
    for page in range(3 * SLICE):
        world.supply(vmo, page)
        world.start_write(vmo, page).result()
    evens = [world.supply(world.vmo(key=9), 0) for _ in range(2)]
    assert evens
    assert dirty(world, vmo) == f"{{0,{3 * SLICE}}}"
    sync = world.start(vmo.sync())
    world.op(PagerOp.WRITEBACK_BEGIN, vmo, 0, 3 * SLICE)
    world.op(PagerOp.WRITEBACK_END, vmo, 0, 3 * SLICE)
    assert sync.done
    assert dirty(world, vmo) == ""


def test_a_sync_looks_at_all_that_is_dirty_with_rests(world: World) -> None:
    vmo = fragmented(world)
    sync = vmo.sync()
    assert rests_of(world, sync) >= 2
    assert not sync.done
    sync.cancel()


def test_all_pages_become_dirty_or_none_however_many_they_are(world: World) -> None:
    vmo = fragmented(world, gaps=False, trap=True)
    access = Access(world.pager.op_range_steps(PagerOp.DIRTY, vmo, 0, PAGES * P))
    assert rests_of(world, access) >= 4
    access.result()
    assert dirty(world, vmo) == f"{{0,{PAGES}}}"


def test_a_page_that_goes_while_others_become_dirty_is_missed(world: World) -> None:
    vmo = fragmented(world, gaps=False, trap=True)
    access: Access[None] = Access(world.pager.op_range_steps(PagerOp.DIRTY, vmo, 0, PAGES * P))
    access.may_rest = True
    access.start(0.0)
    vmo.node.evict(PageRange(PAGES - 5, PAGES))
    while access.is_resting:
        access.go_on(0.0)
    with pytest.raises(NotFoundError, match="absent"):
        access.result()


def test_very_many_requests_fail_some_at_a_time(world: World) -> None:
    vmo = fragmented(world)
    gaps = range(0, PAGES, 5)
    reads = [world.start_read(vmo, page) for page in (*gaps, *range(PAGES, PAGES))]
    more = world.vmo(2 * PAGES, key=3 * pattern.KEY_STEP)
    reads = [world.start_read(more, 2 * page) for page in range(PAGES)]
    access = Access(world.pager.op_range_steps(PagerOp.FAIL, more, 0, 2 * PAGES * P, Status.IO))
    assert rests_of(world, access) >= 4
    world.run()
    for read in reads:
        with pytest.raises(IoError):
            read.result()
    more = world.vmo(2 * PAGES, key=4 * pattern.KEY_STEP)
    reads = [world.start_read(more, 2 * page) for page in range(PAGES)]
    assert rests_of(world, Access(world.pager.detach_steps(more))) >= 4
    world.run()
    assert all(read.done for read in reads)


def test_a_pager_with_very_many_vmos_closes_some_at_a_time(world: World) -> None:
    vmos = [world.vmo(1, key=number) for number in range(2 * SLICE + 1)]
    assert rests_of(world, Access(world.pager.close_steps())) >= 2
    assert not world.pager.vmos
    for vmo in vmos:
        vmo.close()


@pytest.mark.parametrize("kind", ["aux", "clone"])
def test_very_many_pieces_are_supplied_some_at_a_time(world: World, kind: str) -> None:
    vmo = world.vmo(PAGES, key=2 * pattern.KEY_STEP)
    readers = [world.start_read(vmo, page) for page in range(0, PAGES, 7)]
    source: AuxVmo | CloneVmo
    if kind == "aux":
        source = AuxVmo(world.system, PAGES * P)
        for page in range(0, PAGES, 2):
            source.write_nowait(page * P, pattern.make_pages(2 * pattern.KEY_STEP, PageRange(page, page + 1)))
    else:
        source = clone(fragmented(world, gaps=False), ON_WRITE, 0, PAGES)
    access = world.pager.supply_pages_access(vmo, 0, PAGES * P, source, 0)
    assert rests_of(world, access) >= 1
    assert sum(part.pages for part in access.result()) == PAGES
    assert world.pager.statistics().supply_calls_total >= 1
    world.run()
    assert all(reader.done for reader in readers)


def test_what_cannot_be_supplied_is_gone_some_at_a_time(world: World) -> None:
    vmo, aux = world.vmo(PAGES, key=2), AuxVmo(world.system, PAGES * P)
    for page in range(0, PAGES, 2):
        aux.write_nowait(page * P, b"x")
    world.pager.detach_vmo(vmo)
    access = world.pager.supply_pages_access(vmo, 0, PAGES * P, aux, 0)
    assert rests_of(world, access) >= 2
    with pytest.raises(BadStateError):
        access.result()
    assert aux.committed_pages == 0


def test_supply_in_one_go_takes_very_many_pieces(world: World) -> None:
    vmo, aux = world.vmo(PAGES, key=2), AuxVmo(world.system, PAGES * P)
    for page in range(0, PAGES, 2):
        aux.write_nowait(page * P, b"x")
    assert sum(part.pages for part in world.pager.supply_pages(vmo, 0, PAGES * P, aux, 0)) == PAGES


def clone_calls() -> dict[str, Callable[[CloneVmo], Access[Any]]]:
    return {
        "zero": lambda child: child.op_zero(0, PAGES * P),
        "commit": lambda child: child.commit(0, PAGES * P),
        "prefetch": lambda child: child.prefetch(0, PAGES * P),
    }


@pytest.mark.parametrize("name", clone_calls())
def test_clones_rest_too(world: World, name: str) -> None:
    root = fragmented(world, gaps=False)
    one, two = clone(root, ON_WRITE, 0, PAGES), clone(root, ON_WRITE, 0, PAGES)
    world.start(clone_calls()[name](one)).result()
    access = clone_calls()[name](two)
    assert rests_of(world, access) >= 2
    access.result()
    assert one.read_nowait(0, PAGES * P) == two.read_nowait(0, PAGES * P)
    assert one.committed_pages == two.committed_pages


def test_a_clone_is_cut_off_some_at_a_time(world: World) -> None:
    child = clone(fragmented(world, gaps=False), MODIFIED, 0, PAGES, resizable=True)
    for page in range(0, PAGES, 2):
        world.start(child.write(page * P, b"x")).result()
    assert rests_of(world, child.set_size(P)) >= 1
    assert (child.size_pages, child.stream_size) == (1, P)


def test_a_file_that_shrinks_while_it_is_zeroed_is_out_of_range(world: World) -> None:
    vmo = fragmented(world)
    access: Access[None] = vmo.op_zero(0, PAGES * P)
    access.may_rest = True
    access.start(0.0)
    world.start(vmo.set_size(P)).result()
    while access.is_resting:
        access.go_on(0.0)
    with pytest.raises(OutOfRangeError):
        access.result()


def test_a_pinned_page_among_many_is_zeroed_where_it_is(world: World) -> None:
    vmo = fragmented(world)
    pins = [world.start(vmo.pin(page * P, P)).result() for page in range(1, PAGES, 20)]
    rests_of(world, vmo.op_zero(0, PAGES * P))
    assert vmo.committed_pages == len(pins)


def test_many_pages_beyond_the_content_become_zeros_some_at_a_time(world: World) -> None:
    vmo = fragmented(world)
    world.start(vmo.set_stream_size(0)).result()
    for page in range(0, PAGES, 2):
        world.start(vmo.commit(page * P, P)).result()
    access = vmo.set_stream_size(P)
    assert rests_of(world, access) >= 1
    assert states(vmo, PAGES) == "z" + "u" * (PAGES - 1)


def test_a_call_that_is_woken_may_rest_and_leaves_its_request(world: World) -> None:
    vmo = world.vmo(PAGES)
    for page in range(1, PAGES, 2):
        world.supply(vmo, page)
    for page in range(2, PAGES, 2):
        world.supply(vmo, page, zero=True)
    access = vmo.prefetch(0, PAGES * P)
    access.may_rest = True
    assert not access.start(0.0)
    world.supply(vmo, 0)
    assert list(world.system.resting) == [access]
    access.cancel()
    assert world.system.waiters == 0


def test_a_resting_call_leaves_a_request_that_it_was_woken_from_early(world: World) -> None:
    vmo = world.vmo(4)

    def steps() -> Steps[None]:
        yield vmo.node.need_read(PageRange(0, 4), wanted=0)
        yield None

    access = Access(steps())
    access.may_rest = True
    access.start(0.0)
    world.supply(vmo, 0)
    assert access.is_resting
    assert world.system.waiters == 0
    access.cancel()


def test_a_pin_of_many_pieces_waits_for_the_last_of_them(world: World) -> None:
    vmo = world.vmo(3 * SLICE)
    for page in (*range(0, 3 * SLICE, 2), *range(1, 3 * SLICE - 1, 2)):  # whose frames do not follow each other
        world.supply(vmo, page)
    access = vmo.pin(0, 3 * SLICE * P)
    rests_of(world, access)
    assert not vmo.pinned
    world.supply(vmo, 3 * SLICE - 1)
    assert list(world.system.resting) == [access] or access.done
    while access.is_resting:
        access.go_on(0.0)
    assert list(vmo.pinned) == [PageRange(0, 3 * SLICE)]
    access.result().unpin()
    assert not vmo.pinned


def test_the_end_of_a_vmo_ends_all_requests_however_many_they_are(world: World) -> None:
    vmo = world.vmo(2 * PAGES)
    reads = [world.start_read(vmo, 2 * page) for page in range(PAGES)]
    assert world.pager.tally.outstanding == PAGES
    vmo.close()
    world.run()
    assert all(read.done for read in reads)


def fragmented_aux(world: World) -> AuxVmo:
    """Return an aux of which every other page has content."""
    aux = AuxVmo(world.system, PAGES * P)
    for page in range(0, PAGES, 2):
        aux.write_nowait(page * P, b"a")
    return aux


AUX_CALLS: dict[str, Callable[[AuxVmo | AuxView], Access[Any]]] = {
    "commit": lambda aux: op_range(VmoOp.COMMIT, aux, 0, PAGES * P),
    "decommit": lambda aux: op_range(VmoOp.DECOMMIT, aux, 0, PAGES * P),
    "zero": lambda aux: op_range(VmoOp.ZERO, aux, 5, PAGES * P - 10),
    "set_size": lambda aux: Access(aux.set_size_steps(5)),
    "pin": lambda aux: Access(aux.pin_steps(0, PAGES * P)),
}


@pytest.mark.parametrize("is_view", [False, True])
@pytest.mark.parametrize("name", AUX_CALLS)
def test_calls_on_an_aux_rest_too(world: World, name: str, *, is_view: bool) -> None:
    one, two = fragmented_aux(world), fragmented_aux(world)
    view = create_child(two, ChildKind.REFERENCE, 0, 0) if is_view else two
    assert isinstance(view, AuxVmo | AuxView)
    world.start(AUX_CALLS[name](one)).result()
    access = AUX_CALLS[name](view)
    assert rests_of(world, access) >= 1
    access.result()
    assert (one.size_bytes, one.committed_pages) == (two.size_bytes, two.committed_pages)
    assert one.read_nowait(0, PAGES * P) == two.read_nowait(0, PAGES * P)
    assert list(one.pinned) == list(two.pinned)


def test_an_aux_whose_size_changes_while_it_is_committed_is_out_of_range(world: World) -> None:
    aux = fragmented_aux(world)
    access: Access[Any] = AUX_CALLS["pin"](aux)
    access.may_rest = True
    access.start(0.0)
    assert aux.pinned
    with pytest.raises(BadStateError):
        aux.set_size(P)
    access.cancel()
    assert not aux.pinned
    access = AUX_CALLS["commit"](aux)
    access.may_rest = True
    access.start(0.0)
    aux.set_size(P)
    access.go_on(0.0)
    with pytest.raises(OutOfRangeError):
        access.result()


def test_who_are_woken_may_go_on_some_at_a_time(world: World) -> None:
    vmo = world.vmo(8)
    reads = [world.start_read(vmo, page) for page in range(8)]
    cancelled = reads[0]
    world.pager.supply_pages(vmo, 0, 8 * P, world.aux(0, 8), 0)
    cancelled.cancel()
    assert len(world.system.run_ready(0.0, 3)) == 2
    assert len(world.system.run_ready(0.0)) == 5


def test_what_is_gone_is_buried_later_if_the_edge_says_so(world: World) -> None:
    world.system.buries_later = True
    vmo = fragmented(world)
    vmo.close()
    assert world.system.frames.used
    world.system.check()
    while world.system.graves:
        world.system.bury_some()
    assert not world.system.frames.used


def test_what_is_gone_makes_room_first() -> None:
    world = World(limit_pages=PAGES)
    world.system.buries_later = True
    vmo = fragmented(world)
    vmo.close()
    held = world.system.frames.used
    assert held
    aux = world.aux(0, PAGES - held // 2, key=3 * pattern.KEY_STEP)
    assert aux.committed_pages == PAGES - held // 2
    while world.system.graves:
        world.system.bury_some()
    aux.close()


class _Spans(Spans):
    def put(self, start: int, end: int) -> None:
        self._insert(start, end, start, 0)


def test_spans_are_counted_from_either_side() -> None:
    spans = _Spans()
    assert (spans.reach(3, 9, 2), spans.reach_back(3, 9, 2)) == (9, 3)
    for start in range(0, 12_000, 4):
        spans.put(start, start + 2)
    assert spans.reach(0, 12_000, 1) == 4
    assert spans.reach(1, 12_000, 2) == 8
    assert spans.reach(0, 12_000, 2500) == 10_000
    assert spans.reach(0, 100, 2500) == 100
    assert spans.reach(11_000, 20_000, 2500) == 20_000
    assert spans.reach_back(0, 12_000, 1) == 11_996
    assert spans.reach_back(0, 12_000, 2500) == 2000
    assert spans.reach_back(5000, 12_000, 2500) == 5000
    assert spans.reach_back(0, 100, 2500) == 0
    assert list(spans.in_slices(PageRange(0, 8 * SLICE))) == [
        PageRange(first, first + 4 * SLICE) for first in (0, 4 * SLICE)
    ]
    assert PAGE_SIZE == P
