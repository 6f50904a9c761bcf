"""What goes when memory is short, in which order, and what stays. Zircon: zircon-pager 5.1, 5.2."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest

from tests.oracle.world import AUX_KEY, KEY, World
from vmofs.core.pages import eviction as eviction_module
from vmofs.core.pages.eviction import EvictedPages, Eviction, EvictionStatistics
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.requests.access import Access
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import PagerPages, VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerVmo
from vmofs.status import NoMemoryError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind, PagerOp

T = TypeVar("T")

GROUP = 16
LIMIT = 4 * GROUP
P = PAGE_SIZE


@pytest.fixture
def world() -> Iterator[World]:
    """A world with memory for four groups of pages."""
    world = World(LIMIT)
    yield world
    world.check()


def order(world: World) -> Eviction:
    assert world.system.eviction is not None
    return world.system.eviction


def full(world: World, options: VmoOptions | None = None) -> PagerVmo:
    """Make a VMO twice as large as memory, of which memory holds the first half."""
    vmo = world.vmo(2 * LIMIT, options=options)
    for page in range(0, LIMIT, GROUP):
        world.supply(vmo, page, GROUP)
    return vmo


def present(vmo: PagerVmo) -> list[int]:
    """Return the groups of which a page is present."""
    groups = range(vmo.size_pages // GROUP)
    return [group for group in groups if vmo.node.runs.over(PageRange(group * GROUP, (group + 1) * GROUP))]


def test_the_least_recently_supplied_group_goes_first(world: World) -> None:
    vmo = full(world)
    world.supply(vmo, LIMIT, GROUP)
    assert present(vmo) == [1, 2, 3, 4]
    world.supply(vmo, LIMIT + GROUP)
    assert present(vmo) == [2, 3, 4, 5]
    assert order(world).statistics() == EvictionStatistics(
        eviction_groups=4, evicted_pages_total=32, refaulted_pages_total=0
    )


def test_what_may_be_evicted_is_counted(world: World) -> None:
    vmo, eviction = full(world), order(world)
    assert eviction.idle_pages() == LIMIT
    world.start(vmo.write(0, bytes(P))).result()
    assert eviction.idle_pages() == LIMIT - 1
    pin = world.start(vmo.pin(GROUP * P, 2 * P)).result()
    assert eviction.idle_pages() == LIMIT - 3
    pin.unpin()
    assert eviction.idle_pages() == LIMIT - 1
    world.system.reclaim(LIMIT)
    assert present(vmo) == [0]
    assert eviction.idle_pages() == 0


def test_reading_keeps_a_group(world: World) -> None:
    vmo = full(world)
    vmo.read_nowait(5 * P, 1)
    world.start_read(vmo, GROUP).result()
    world.supply(vmo, LIMIT)
    assert present(vmo) == [0, 1, 3, 4]


def test_writing_keeps_a_group_and_what_is_dirty_stays(world: World) -> None:
    vmo = full(world)
    world.start_write(vmo, 3).result()
    for group in range(4, 8):
        world.supply(vmo, group * GROUP, GROUP - 1)
    assert present(vmo) == [0, 4, 5, 6, 7]
    assert world.states(vmo)[:5] == "...d."


def test_what_was_evicted_is_asked_for_again_and_counted(world: World) -> None:
    vmo = full(world)
    world.supply(vmo, LIMIT)
    reader = world.start_read(vmo, 2, 2)
    assert world.packets() == ["READ(2,2)"]
    world.supply(vmo, 2, 3)
    pattern.check(reader.result(), KEY, 2 * P)
    world.supply(vmo, 2, 3)
    statistics = order(world).statistics()
    assert (statistics.evicted_pages_total, statistics.refaulted_pages_total) == (16, 3)


def test_evicted_pages_are_stale(world: World) -> None:
    vmo = full(world)
    world.system.take_stale()
    world.supply(vmo, LIMIT)
    assert world.system.take_stale()[vmo] == [PageRange(0, GROUP)]


def test_pages_that_are_not_needed_go_first(world: World) -> None:
    vmo = full(world)
    vmo.dont_need(3 * GROUP * P, GROUP * P)
    world.supply(vmo, LIMIT, GROUP)
    assert present(vmo) == [0, 1, 2, 4]
    assert list(vmo.node.unneeded) == []


def test_of_pages_that_are_not_needed_only_as_many_go_as_must(world: World) -> None:
    vmo = full(world)
    vmo.dont_need(0, 2 * LIMIT * P)
    world.supply(vmo, LIMIT)
    assert present(vmo) == [1, 2, 3, 4]
    assert list(vmo.node.unneeded) == [PageRange(GROUP, LIMIT), PageRange(LIMIT + 1, 2 * LIMIT)]


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[PageRange]:
    """Return a list of all pages from now on that are looked at for being evicted."""
    seen: list[PageRange] = []
    evict_idle = PagerPages.evict_idle

    def look(node: PagerPages, pages: PageRange, spared: RangeSet) -> list[PageRange]:
        seen.append(pages)
        return evict_idle(node, pages, spared)

    monkeypatch.setattr(PagerPages, "evict_idle", look)
    return seen


def test_zeros_that_are_not_needed_are_passed_over_however_many_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a step for each 16 of them: minutes for a tebibyte."""
    vmo = full(world)
    holes = world.vmo(2**28 + LIMIT)
    world.supply(holes, GROUP, 2**28, zero=True)
    world.supply(holes, 2**28 + LIMIT - 1)
    holes.dont_need(0, holes.size_pages * P)
    seen = looked_at(monkeypatch)
    world.supply(vmo, LIMIT, GROUP)
    assert len(seen) <= 4
    assert holes.node.runs.at(holes.size_pages - 1) is None
    assert list(holes.node.unneeded) == []


def test_a_few_of_many_pieces_that_are_not_needed_are_looked_at_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmo = full(world)
    pieces = 3 * eviction_module._FEW
    holes = world.vmo(2 * pieces)
    for piece in range(pieces):
        world.supply(holes, 2 * piece, zero=True)
    holes.dont_need(0, holes.size_pages * P)
    seen = looked_at(monkeypatch)
    world.supply(vmo, LIMIT, GROUP)
    assert len(seen) <= eviction_module._FEW + 1, "then the one that was used least recently goes"
    assert present(vmo) == [1, 2, 3, 4]
    for group in range(5, 8):
        world.supply(vmo, group * GROUP, GROUP)
    assert list(holes.node.unneeded) == []


def test_a_use_lifts_the_hint(world: World) -> None:
    vmo = full(world)
    vmo.dont_need(2 * GROUP * P, 2 * GROUP * P)
    vmo.read_nowait(2 * GROUP * P, GROUP * P)
    world.supply(vmo, LIMIT)
    assert present(vmo) == [0, 1, 2, 4]


def test_pages_that_are_always_needed_stay(world: World) -> None:
    vmo = full(world)
    assert world.start(vmo.always_need(0, LIMIT // 2 * P)).done
    world.supply(vmo, LIMIT, 2 * GROUP)
    assert present(vmo) == [0, 1, 4, 5]


def test_pinned_pages_stay_until_they_are_unpinned(world: World) -> None:
    vmo = full(world)
    pin = world.start(vmo.pin(0, 3 * P)).result()
    world.supply(vmo, LIMIT, 2 * GROUP)
    assert present(vmo) == [0, 3, 4, 5]
    pin.unpin()
    world.supply(vmo, 2 * GROUP + LIMIT, GROUP)
    assert present(vmo) == [0, 4, 5, 6]
    world.supply(vmo, 3 * GROUP + LIMIT, GROUP)
    world.supply(vmo, GROUP, GROUP)
    assert present(vmo) == [0, 1, 6, 7]
    world.supply(vmo, 2 * GROUP, GROUP)
    assert present(vmo) == [1, 2, 6, 7]  # its turn came after those that were there when it was unpinned


def test_pages_that_were_written_back_may_go(world: World) -> None:
    vmo = full(world)
    world.start_write(vmo, 0, GROUP).result()
    vmo.dont_need(GROUP * P, 3 * GROUP * P)
    world.supply(vmo, LIMIT, 3 * GROUP)
    assert present(vmo) == [0, 4, 5, 6]
    world.op(PagerOp.WRITEBACK_BEGIN, vmo, 0, GROUP)
    world.op(PagerOp.WRITEBACK_END, vmo, 0, GROUP)
    world.supply(vmo, LIMIT + 3 * GROUP, GROUP)
    assert present(vmo) == [4, 5, 6, 7]  # being cleaned is no use: its place was that of the write


def test_a_vmo_made_with_noevict_keeps_its_pages(world: World) -> None:
    kept = full(world, VmoOptions(noevict=True))
    kept.dont_need(0, LIMIT * P)
    with pytest.raises(NoMemoryError):
        world.aux(0, 1)
    assert kept.node.evict(PageRange(0, GROUP)) == [PageRange(0, GROUP)]  # on command they go
    world.supply(world.vmo(1), 0)
    world.supply(kept, LIMIT)
    world.pager.close_vmo(kept)


def test_when_nothing_may_go_writes_fail_and_nothing_is_lost(world: World) -> None:
    vmo = full(world)
    world.start_write(vmo, 0, LIMIT).result()
    aux = AuxVmo(world.system)
    with pytest.raises(NoMemoryError, match="1 pages wanted, 64 of at most 64 pages are in use"):
        aux.write_nowait(0, b"x")
    with pytest.raises(NoMemoryError):
        aux.write_nowait(0, bytes((LIMIT + 1) * P))
    assert aux.size_bytes == 0
    pattern.check(world.start_read(vmo, 0, LIMIT).result(), AUX_KEY)
    world.supply(vmo, LIMIT, zero=True)  # a supply moves pages, it needs no memory
    with pytest.raises(NoMemoryError):
        world.start_write(vmo, LIMIT).result()
    aux.close()


def test_what_cannot_be_brought_again_stays(world: World) -> None:
    closed = full(world)
    world.pager.close()
    with pytest.raises(NoMemoryError):
        world.aux(0, 1)
    assert closed.node.runs.committed_pages == LIMIT


def test_the_pages_that_are_being_made_dirty_do_not_go_for_it(world: World) -> None:
    vmo = world.trap_vmo(2 * LIMIT)
    world.supply(vmo, 0, LIMIT)
    world.supply(vmo, LIMIT, GROUP, zero=True)
    with pytest.raises(NoMemoryError):
        world.op(PagerOp.DIRTY, vmo, 0, LIMIT + 1)
    assert present(vmo) == [0, 1, 2, 3, 4]
    world.op(PagerOp.DIRTY, vmo, 4, LIMIT - 3)
    assert present(vmo) == [0, 1, 2, 3, 4]
    assert world.states(vmo)[:6] == "....dd"
    pattern.check(vmo.read_nowait(4 * P, 12 * P) or b"", KEY, 4 * P)


def test_the_page_that_is_copied_into_a_clone_does_not_go_for_the_copy(world: World) -> None:
    vmo = full(world)
    clone = create_child(vmo, ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, 0, LIMIT * P)
    assert isinstance(clone, CloneVmo)
    world.start(clone.write(P, b"x")).result()
    assert present(vmo) == [0, 1, 2, 3]
    pattern.check(vmo.read_nowait(P, P) or b"", KEY, P)
    assert vmo.state_at(0).value == "gap"
    pattern.check((clone.read_nowait(P, P) or b"")[8:], KEY, P + 8)
    clone.read_nowait(3 * GROUP * P, P)
    world.supply(vmo, LIMIT, 2 * GROUP)
    assert present(vmo) == [0, 3, 4, 5]  # reading the clone was a use of the root's page
    clone.close()


def test_pages_are_gathered_for_a_pin_without_going_again(world: World) -> None:
    vmo = full(world)
    pin = world.start(vmo.pin(0, (LIMIT + 1) * P))
    assert world.packets() == [f"READ({LIMIT},1)"]
    with pytest.raises(NoMemoryError):
        world.aux(0, 1)
    world.fail(vmo, LIMIT)
    assert pin.done
    world.supply(vmo, LIMIT)
    assert present(vmo) == [1, 2, 3, 4]


def test_spared_groups_keep_their_place(world: World) -> None:
    vmo = full(world)
    order(world).reclaim(1, [run.frames for run in vmo.node.runs.over(PageRange(3, 17)) if run.frames])
    assert world.states(vmo)[:18] == "..." + 13 * "c" + "cc"
    order(world).reclaim(GROUP)
    assert present(vmo) == [2, 3]


def test_closed_vmos_leave_nothing_behind(world: World) -> None:
    vmo = full(world)
    world.supply(vmo, LIMIT)
    vmo.dont_need(0, P)
    world.pager.close_vmo(vmo)
    other = full(world)
    world.supply(other, LIMIT)
    assert present(other) == [1, 2, 3, 4]
    assert order(world).statistics().eviction_groups == 4
    world.pager.close_vmo(other)
    assert order(world).statistics().eviction_groups == 0


def test_places_without_pages_are_swept_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction_module, "_FEW", 8)
    kept = world.vmo(1)
    world.supply(kept, 0)
    for _ in range(50):
        vmo = world.vmo(LIMIT)
        world.supply(vmo, 0, LIMIT)
        if world.system.frames.used % 2:
            vmo.node.evict(PageRange(0, LIMIT))
        world.pager.close_vmo(vmo)
    assert order(world).statistics().eviction_groups <= 8 + 2 * LIMIT


def test_the_oldest_memory_of_evictions_is_lost_before_there_is_too_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction_module, "_MOST_CHUNKS", 2)
    evicted = EvictedPages()
    evicted.add(1, PageRange(0, 2048))
    evicted.add(2, PageRange(1023, 1025))
    evicted.check()
    assert evicted.take(1, PageRange(0, 4096)) == 0
    assert evicted.take(2, PageRange(0, 2**50)) == 2
    evicted.add(3, PageRange(5, 7))
    assert evicted.take(3, PageRange(6, 7)) == 1
    evicted.add(3, PageRange(5, 6))
    evicted.forget(3)
    evicted.check()
    assert evicted.take(3, PageRange(0, 9)) == 0


def finish(world: World, vmo: PagerVmo, page: int, access: Access[T]) -> bool:
    """Supply the page that an access of one page waits for; return whether it did."""
    if access.done:
        return False
    assert world.packets() == [f"READ({page},1)"]
    world.supply(vmo, page)
    assert access.waits_for is None
    return True


@pytest.mark.parametrize("seed", range(10))
def test_every_byte_is_right_and_evictions_and_refaults_are_counted_exactly(seed: int) -> None:
    random_numbers = random.Random(seed)  # noqa: S311 - nothing secret
    world = World(LIMIT)
    vmos = [world.vmo(LIMIT, key=key * pattern.KEY_STEP) for key in (3, 4)]
    supplied = [0] * 2 * LIMIT
    written: dict[tuple[int, int], bytes] = {}
    for step in range(300):
        number, page = random_numbers.randrange(2), random_numbers.randrange(LIMIT)
        vmo, action = vmos[number], random_numbers.random()
        if action < 0.1:
            vmo.dont_need(page * P, 3 * P if page < LIMIT - 3 else P)
            continue
        if action < 0.2 and len(written) < LIMIT // 2:
            data = step.to_bytes(8, "little") * (P // 8)
            written[number, page] = data
            supplied[number * LIMIT + page] += finish(world, vmo, page, world.start(vmo.write(page * P, data)))
        reader = world.start_read(vmo, page)
        supplied[number * LIMIT + page] += finish(world, vmo, page, reader)
        expected = written.get((number, page)) or pattern.make(vmo.source.key, page * P, P)
        assert reader.result() == expected
    world.check()
    statistics = order(world).statistics()
    assert statistics.refaulted_pages_total == sum(max(0, count - 1) for count in supplied)
    assert statistics.evicted_pages_total == sum(supplied) - world.system.frames.used
    assert world.system.frames.statistics().peak <= LIMIT


def steps_of(call: Callable[[], object]) -> int:
    """Return how many functions a call calls, those of C too."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("made", ["supplied", "grown", "between frames", "seen by a clone"])
def test_a_read_of_zeros_costs_the_same_however_many_were_read(made: str) -> None:
    pieces, count = 32, 4000
    world = World(LIMIT)
    vmo = world.vmo(0 if made == "grown" else pieces * count, options=VmoOptions(resizable=True))
    if made == "grown":
        vmo.set_size(pieces * count * P).start(0.0)
    else:
        world.supply(vmo, 0, pieces * count, zero=True)
    if made == "between frames":
        world.start_write(vmo, 1).result()
    read = vmo.read_nowait
    if made == "seen by a clone":
        clone = create_child(vmo, ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, 0, pieces * count * P)
        assert isinstance(clone, CloneVmo)
        read = clone.read_nowait
    steps = [steps_of(partial(read, page * P, pieces * P)) for page in range(0, pieces * count, pieces)]
    assert max(steps[1:]) <= 1.2 * steps[1]
    assert order(world).statistics().eviction_groups <= 1
    world.check()


def test_places_of_pages_that_became_zeros_are_swept_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction_module, "_FEW", 8)
    world = World(LIMIT)
    vmo = world.vmo(100 * GROUP)
    for page in range(0, 100 * GROUP, GROUP):
        world.supply(vmo, page)
        vmo.node.evict(PageRange(page, page + 1))
        world.supply(vmo, page, zero=True)
    assert order(world).statistics().eviction_groups <= 10
    world.check()


def cost_per_page(fill: list[PageRange], pages: int) -> float:
    """Return the bytes of bookkeeping for a page, if a VMO is filled in this order."""
    world = World(4 * pages)
    vmo = world.vmo(pages)
    world.supply(vmo, 0)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for part in fill:
        world.supply(vmo, part.start, part.pages)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    world.system.frames.close()
    return (after - before) / pages


def test_the_bookkeeping_of_large_runs_is_small() -> None:
    pages = 4096
    assert cost_per_page([PageRange(start, start + 256) for start in range(0, pages, 256)], pages) <= 64


def test_the_bookkeeping_of_single_pages_is_bounded() -> None:
    pages = 2048
    fill = [PageRange(page, page + 1) for page in range(pages)]
    random.Random(1).shuffle(fill)  # noqa: S311 - nothing secret
    assert cost_per_page(fill, pages) <= 400


def test_of_pages_that_end_a_writeback_only_the_clean_ones_may_be_evicted(world: World) -> None:
    vmo = full(world)
    world.start(vmo.write(0, b"d" * 2 * P))
    world.pager.op_range(PagerOp.WRITEBACK_BEGIN, vmo, 0, P)
    world.pager.op_range(PagerOp.WRITEBACK_END, vmo, 0, 2 * P)
    assert vmo.node.evictable(PageRange(0, 3)) == [PageRange(0, 1), PageRange(2, 3)]
    world.supply(vmo, LIMIT, GROUP)
    assert vmo.state_at(1).value == "dirty"


def test_a_read_across_groups_keeps_both(world: World) -> None:
    vmo = full(world)
    vmo.read_nowait((GROUP - 1) * P, 2 * P)
    world.supply(vmo, LIMIT, 2 * GROUP)
    assert present(vmo) == [0, 1, 4, 5]
