"""COMMIT, DECOMMIT, PREFETCH and the eviction hints on a pager VMO (zircon-pager 2.11, 5.1, 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle.world import World
from tests.support.children_harness import clone
from tests.support.dirty_harness import P, ack, begin, dirty, grown, modified, states
from vmofs.core.operations import op_range
from vmofs.core.requests.access import Access
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, NoMemoryError, NotSupportedError, OutOfRangeError
from vmofs.units import UINT64_MAX, PageRange
from vmofs.vocabulary import VmoOp

PAGES_IN = [VmoOp.COMMIT, VmoOp.PREFETCH, VmoOp.ALWAYS_NEED]


def start(world: World, op: VmoOp, vmo: PagerVmo, offset: int, length: int) -> Access[None]:
    """Start an operation on bytes."""
    return world.start(op_range(op, vmo, offset, length))


@pytest.mark.parametrize("op", VmoOp)
@pytest.mark.parametrize(("offset", "length"), [(8 * P, 1), (0, 8 * P + 1), (UINT64_MAX, 1), (9 * P, 0)])
def test_every_operation_outside_is_out_of_range(world: World, op: VmoOp, offset: int, length: int) -> None:
    vmo = world.vmo()
    with pytest.raises(OutOfRangeError):
        start(world, op, vmo, offset, length).result()
    assert (world.packets(), vmo.node.always_needed.pages, vmo.node.unneeded.pages) == ([], 0, 0)


@pytest.mark.parametrize("op", VmoOp)
def test_every_operation_on_nothing_is_ok(world: World, op: VmoOp) -> None:
    vmo = world.vmo()
    for offset in (0, 7, 8 * P):
        start(world, op, vmo, offset, 0).result()
    assert (world.packets(), states(vmo), modified(world, vmo)) == ([], "........", False)


# Paging in


@pytest.mark.parametrize("op", PAGES_IN)
def test_unaligned_ranges_are_rounded_outward(world: World, op: VmoOp) -> None:
    vmo = world.vmo(20)
    access = start(world, op, vmo, 15 * P - 8, 16)
    assert world.packets() == ["READ(14,2)"]
    world.supply(vmo, 14, 2)
    access.result()


@pytest.mark.parametrize("op", PAGES_IN)
def test_every_gap_is_asked_for_as_a_whole_run(world: World, op: VmoOp) -> None:
    vmo = world.vmo(64)
    world.supply(vmo, 3)
    world.supply(vmo, 6, 2)
    access = start(world, op, vmo, 0, 64 * P)
    for page, pages in ((0, 3), (4, 2), (8, 56)):
        assert world.packets() == [f"READ({page},{pages})"]
        world.supply(vmo, page, pages)
    access.result()
    assert dirty(world, vmo) == ""
    assert not modified(world, vmo)


@pytest.mark.parametrize("op", [VmoOp.COMMIT, VmoOp.PREFETCH])
def test_a_part_of_an_answer_does_not_wake_those_without_a_wanted_page(world: World, op: VmoOp) -> None:
    vmo = world.vmo()
    access = start(world, op, vmo, 0, 8 * P)
    world.supply(vmo, 0, 7)
    assert not access.done
    vmo.node.evict(PageRange(2, 3))
    world.supply(vmo, 7)
    assert not access.done
    assert world.packets() == ["READ(2,1)"]  # evicted before it looked: asked anew


@pytest.mark.parametrize("op", [VmoOp.COMMIT, VmoOp.PREFETCH])
def test_commit_and_prefetch_return_errors(world: World, op: VmoOp) -> None:
    vmo = world.vmo()
    access = start(world, op, vmo, 0, 8 * P)
    world.fail(vmo, 0)
    assert not access.done  # only once the whole request was counted
    world.supply(vmo, 1, 7)
    with pytest.raises(IoError):
        access.result()
    world.pager.detach_vmo(vmo)
    with pytest.raises(BadStateError):
        start(world, op, vmo, 0, P).result()


def test_no_dirty_on_commit_clean_pages_stay_and_markers_become_clean_pages(world: World) -> None:
    vmo = world.trap_vmo(4)
    world.supply(vmo, 0)
    world.supply(vmo, 1, 2, zero=True)
    start(world, VmoOp.COMMIT, vmo, 0, 2 * P).result()
    assert (states(vmo), vmo.committed_pages) == ("ccm.", 2)
    assert (dirty(world, vmo), world.packets()) == ("", [])
    assert world.start_read(vmo, 1).result() == bytes(P)


@pytest.mark.parametrize("trap", [False, True])
def test_commit_extended_tail_makes_zero_pages_real_and_dirty_and_under_trap_asks(world: World, trap: bool) -> None:
    vmo = grown(world, 2, 5, trap=trap)
    world.supply(vmo, 0, 2)
    access = start(world, VmoOp.COMMIT, vmo, 0, 5 * P)
    if trap:
        assert (world.packets(), states(vmo)) == (["DIRTY(2,3)"], "cczzz")
        ack(world, vmo, 2, 3)
    access.result()
    assert states(vmo) == "ccddd"
    assert not modified(world, vmo)


def test_under_trap_commit_asks_for_zeros_only_not_for_dirty_pages_between_them(world: World) -> None:
    vmo = grown(world, 0, 5, trap=True)
    ack(world, vmo, 1)
    ack(world, vmo, 3)
    access = start(world, VmoOp.COMMIT, vmo, 0, 5 * P)
    for page in (0, 2, 4):
        assert world.packets() == [f"DIRTY({page},1)"]
        ack(world, vmo, page)
    access.result()


def test_commit_leaves_dirty_and_awaiting_pages_as_they_are(world: World) -> None:
    vmo = world.vmo(2)
    world.supply(vmo, 0, 2)
    world.start_write(vmo, 0, 2)
    begin(world, vmo, 1)
    start(world, VmoOp.COMMIT, vmo, 0, 2 * P).result()
    assert states(vmo) == "da"


def test_commit_of_untracked_zeros_makes_them_dirty(world: World) -> None:
    vmo = world.vmo(size=P, options=VmoOptions(unbounded=True))
    start(world, VmoOp.COMMIT, vmo, P, 2 * P).result()
    assert dirty(world, vmo) == "{1,2}"


def test_commit_of_zeros_after_detach_is_bad_state_under_trap_and_ok_without(world: World) -> None:
    for trap in (True, False):
        vmo = grown(world, 0, 2, trap=trap)
        world.pager.detach_vmo(vmo)
        access = start(world, VmoOp.COMMIT, vmo, 0, P)
        if trap:
            with pytest.raises(BadStateError):
                access.result()
        else:
            access.result()
        assert states(vmo) == ("zz" if trap else "dz")


@pytest.mark.parametrize("kind", ["marker", "zero"])
def test_commit_without_memory_fails_and_nothing_is_lost(kind: str) -> None:
    world = World(limit_pages=1)
    vmo = grown(world, 2, 4)
    world.supply(vmo, 0, 2, zero=True)
    with pytest.raises(NoMemoryError):
        start(world, VmoOp.COMMIT, vmo, 0 if kind == "marker" else 2 * P, 2 * P).result()
    assert states(vmo) == "mmzz"
    world.check()


def test_prefetch_changes_nothing_that_is_present(world: World) -> None:
    vmo = grown(world, 2, 4, trap=True)
    world.supply(vmo, 0, zero=True)
    access = start(world, VmoOp.PREFETCH, vmo, 0, 4 * P)
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    access.result()
    assert (states(vmo), world.packets()) == ("mczz", [])


# ALWAYS_NEED, DONT_NEED, DECOMMIT


def test_always_need_protects_from_eviction_and_is_sticky(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 8)
    start(world, VmoOp.ALWAYS_NEED, vmo, 2 * P, 2 * P).result()
    start(world, VmoOp.DONT_NEED, vmo, 0, 8 * P).result()
    assert list(vmo.node.unneeded) == [PageRange(0, 2), PageRange(4, 8)]
    assert vmo.node.evictable(PageRange(1, 6)) == [PageRange(1, 2), PageRange(4, 6)]
    assert world.pager.evict(vmo, 0, 8 * P) == [PageRange(0, 2), PageRange(4, 8)]
    assert states(vmo) == "..cc...."


def test_always_need_skips_what_fails_and_returns_ok(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 3)
    access = start(world, VmoOp.ALWAYS_NEED, vmo, 0, 8 * P)
    assert world.packets() == ["READ(0,3)"]
    world.fail(vmo, 0, 3)
    assert world.packets() == ["READ(4,4)"]
    world.supply(vmo, 4, 4)
    access.result()
    assert states(vmo) == "...ccccc"
    world.supply(vmo, 0, 3)  # what comes later is protected too
    assert vmo.node.evictable(PageRange(0, 8)) == []


@pytest.mark.parametrize("through_clone", [False, True])
def test_always_need_skips_all_it_asked_for_when_that_fails_though_some_has_come(
    world: World, through_clone: bool
) -> None:
    vmo = world.vmo()
    access = world.start((clone(vmo) if through_clone else vmo).always_need(P, 4 * P))
    assert world.packets() == ["READ(1,4)"]
    world.fail(vmo, 1)
    world.supply(vmo, 1, 2)
    assert not access.done
    world.fail(vmo, 4)
    assert (access.done, states(vmo), world.packets()) == (True, ".cc.....", [])


def test_detach_and_always_need_is_ok(world: World) -> None:
    vmo = world.vmo()
    waiting = start(world, VmoOp.ALWAYS_NEED, vmo, 0, 8 * P)
    world.pager.detach_vmo(vmo)
    world.run()
    waiting.result()
    start(world, VmoOp.ALWAYS_NEED, vmo, 0, 8 * P).result()


def test_dont_need_never_pages_anything_in_and_works_detached(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    for _ in range(2):
        start(world, VmoOp.DONT_NEED, vmo, P - 1, 2 * P).result()
        assert list(vmo.node.unneeded) == [PageRange(0, 3)]
        assert world.packets() in ([], ["COMPLETE"])
        world.pager.detach_vmo(vmo)


def test_always_need_takes_back_dont_need(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 8)
    start(world, VmoOp.DONT_NEED, vmo, 0, 8 * P).result()
    start(world, VmoOp.ALWAYS_NEED, vmo, 0, 4 * P).result()
    assert list(vmo.node.unneeded) == [PageRange(4, 8)]


def test_hints_do_not_outlive_a_shrink(world: World) -> None:
    vmo = grown(world, 4, 4)
    world.supply(vmo, 0, 4)
    start(world, VmoOp.ALWAYS_NEED, vmo, 0, 2 * P).result()
    start(world, VmoOp.DONT_NEED, vmo, 2 * P, 2 * P).result()
    world.start(vmo.set_size(P)).result()
    assert (list(vmo.node.always_needed), list(vmo.node.unneeded)) == ([PageRange(0, 1)], [])


@pytest.mark.parametrize("trap", [False, True])
def test_decommit_is_not_supported(world: World, trap: bool) -> None:
    vmo = world.trap_vmo() if trap else world.vmo()
    world.supply(vmo, 0)
    with pytest.raises(NotSupportedError):
        start(world, VmoOp.DECOMMIT, vmo, 0, 1).result()
    assert states(vmo)[0] == "c"


# Eviction


def test_only_clean_unpinned_pages_are_evictable(world: World) -> None:
    vmo = grown(world, 7, 8)
    world.supply(vmo, 0, 5)
    world.supply(vmo, 5, zero=True)
    world.start_write(vmo, 1, 2)
    begin(world, vmo, 2)
    assert states(vmo) == "cdaccm.z"
    pin = world.start(vmo.pin(4 * P, P)).result()
    assert vmo.node.evictable(PageRange(0, 8)) == [PageRange(0, 1), PageRange(3, 4)]
    pin.unpin()
    assert vmo.node.evictable(PageRange(3, 8)) == [PageRange(3, 5)]


def test_operations_check_when_they_are_started_not_when_they_are_made(world: World) -> None:
    vmo = grown(world, 2, 2)
    made: list[Callable[[], Access[None]]] = [lambda op=op: op_range(op, vmo, 2 * P, P) for op in VmoOp]  # type: ignore[misc]
    accesses = [make() for make in made]
    world.start(vmo.set_size(4 * P)).result()
    for op, access in zip(VmoOp, accesses, strict=True):
        world.start(access)
        if op is VmoOp.DECOMMIT:
            with pytest.raises(NotSupportedError):
                access.result()
        else:
            access.result()
