"""Reading clones of a pager VMO: what is READ at the root, and who shares it (zircon-pager 3.2, 3.3, 5.3)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.children_harness import MODIFIED, ON_WRITE, P, clone, read, shows, slice_of, write, zero
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadStateError, IoError, OutOfRangeError, TimedOutError
from vmofs.testing import pattern
from vmofs.units import PageRange


@pytest.mark.parametrize("kind", [ON_WRITE, MODIFIED])
def test_clone_read_from_clone_is_a_read_on_the_root_with_its_key_and_offsets(world: World, kind: object) -> None:
    root = world.vmo()
    child = clone(root, ON_WRITE if kind is ON_WRITE else MODIFIED, 2, 6)
    access = read(world, child, 1, 2)
    packet = world.port.peek()
    assert packet is not None
    assert (packet.key, packet.source) == (KEY, root.source)
    assert world.packets() == ["READ(3,2)"]
    world.supply(root, 3, 2)
    pattern.check_pages(access.result(), KEY, PageRange(3, 5))
    assert (child.committed_pages, root.committed_pages) == (0, 2)


def test_no_page_is_copied_in_the_clone_and_present_ones_are_not_asked_for(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(clone(root, ON_WRITE, 1, 6), ON_WRITE, 1, 4)
    assert child.read_nowait(0, 0) == b""
    assert shows(child, shift=2) == "rrrr"
    assert read(world, child, 0, 4).done
    assert (child.committed_pages, world.packets()) == (0, [])


def test_clone_simultaneous_parent_clone_and_sibling_share_one_request(world: World) -> None:
    root = world.vmo()
    first = clone(root)
    second, third = clone(root, ON_WRITE, 2, 4), clone(first)
    accesses = [read(world, root, 3), read(world, first, 3), read(world, second, 1), read(world, third, 3)]
    assert world.packets() == ["READ(3,1)"]
    world.supply(root, 3)
    for access in accesses:
        pattern.check_pages(access.result(), KEY, PageRange(3, 4))
    assert world.packets() == []


def test_page_request_batching_checks_ancestor_pages(world: World) -> None:
    root = world.vmo()
    first = clone(root)
    world.supply(root, 1, 2)
    write(world, first, 1, 2)
    second = clone(first)
    world.supply(root, 5, 3)
    write(world, second, 5, 3)
    world.pager.evict(root, 0, 8 * P)
    access = read(world, clone(second), 0, 8)
    assert world.packets() == ["READ(0,1)"]
    world.supply(root, 0)
    assert world.packets() == ["READ(3,2)"]
    world.supply(root, 3, 2)
    assert access.done


def test_a_request_ends_at_the_limit_that_an_intermediate_parent_has(world: World) -> None:
    root = world.vmo()
    child = clone(clone(root, ON_WRITE, 1, 3), ON_WRITE, 1, 8)
    access = read(world, child, 0, 8)
    assert world.packets() == ["READ(2,2)"]
    world.supply(root, 0, 8)
    assert shows(child, shift=2) == "rr000000"
    assert access.done


def test_clone_limit_past_the_end_of_the_parent_are_zeros_and_no_read(world: World) -> None:
    child = clone(world.vmo(4), ON_WRITE, 4, 4)
    assert read(world, child, 0, 4).result() == bytes(4 * P)
    assert world.packets() == []
    assert world.start(child.write(P, b"abc")).result() == 3
    assert child.committed_pages == 1


def test_clones_of_an_unbounded_vmo_see_zeros_beyond_its_content(world: World) -> None:
    root = world.vmo(2, options=VmoOptions(unbounded=True))
    child = clone(root, ON_WRITE, 1, 3)
    assert shows(child) == ".00"


def test_a_range_outside_is_out_of_range_before_anything_is_asked(world: World) -> None:
    child = clone(world.vmo(), ON_WRITE, 0, 4)
    for offset, length in ((0, 5 * P), (4 * P, 1), (2**64, 0)):
        with pytest.raises(OutOfRangeError):
            world.start(child.read(offset, length)).result()
        with pytest.raises(OutOfRangeError):
            child.read_nowait(offset, length)
    assert world.packets() == []


def test_early_wake_clone_race_a_page_forked_meanwhile_is_used(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    access = read(world, child, 0, 3)
    zero(world, child, 1)
    world.supply(root, 0)
    waiter = access.waits_for
    assert waiter is not None
    assert waiter.wanted == 2
    assert world.packets() == ["READ(0,3)"]
    world.supply(root, 2)
    assert access.result()[P : 2 * P] == bytes(P)


def test_early_wake_clone_race_the_reader_is_done_when_all_that_is_left_was_forked(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    access = read(world, child, 0, 3)
    zero(world, child, 1, 2)
    world.supply(root, 0)
    assert access.result()[P:] == bytes(2 * P)
    assert root.source.statistics().outstanding == 0


def test_failures_and_the_deadline_reach_readers_of_clones(world: World) -> None:
    root = world.vmo()
    child = clone(clone(root))
    access = read(world, child, 2, 2)
    world.fail(root, 2)
    with pytest.raises(IoError):
        access.result()
    access = read(world, child, 2)
    world.system.expire(100.0)
    world.run()
    with pytest.raises(TimedOutError):
        access.result()


def test_absent_is_what_a_read_would_wait_for(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 3)
    child = clone(root, ON_WRITE, 1, 6)
    assert child.absent(PageRange(0, 6)) == PageRange(2, 6)
    assert child.absent(PageRange(0, 2)) == PageRange(0, 2)
    assert slice_of(child, 1, 4).absent(PageRange(0, 4)) == PageRange(1, 4)
    assert child.committed(PageRange(0, 6)) == [PageRange(0, 2)]


def test_a_child_is_whole_with_its_root_when_no_page_can_be_asked_for(world: World) -> None:
    root = world.vmo()
    child = clone(root, ON_WRITE, 1, 6)
    world.supply(root, 0, 7)
    assert [vmo.is_whole for vmo in (root, child)] == [False, False]
    world.supply(root, 7, zero=True)
    assert [vmo.is_whole for vmo in (root, child)] == [True, True]
    root.node.evict(PageRange(0, 1))
    assert [vmo.is_whole for vmo in (root, child)] == [False, False]


def test_after_pager_detach_clones_keep_what_they_forked_and_what_the_root_kept(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    world.supply(root, 0, 4)
    write(world, root, 0)
    write(world, child, 1)
    access = read(world, child, 6)
    world.pager.detach_vmo(root)
    world.run()
    assert shows(child) == "ww......"
    for failing in (access, read(world, child, 2), write(world, child, 2)):
        with pytest.raises(BadStateError):
            failing.result()
    assert write(world, child, 0).done


def test_when_the_pager_is_closed_present_pages_stay_readable_through_clones(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    world.supply(root, 0, 4)
    access = read(world, child, 6)
    world.pager.close()
    world.run()
    assert shows(child) == "rrrr...."
    with pytest.raises(BadStateError):
        access.result()
