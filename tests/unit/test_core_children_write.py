"""Writing, zeroing, committing, pinning in clones of a pager VMO (zircon-pager 2.9, 2.11, 4.8, 5.2, 5.3)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from tests.support.children_harness import MODIFIED, ON_WRITE, P, clone, read, shows, used, write, zero
from tests.support.dirty_harness import dirty, modified, states
from vmofs.core.operations import op_range
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import (
    AccessDeniedError,
    InvalidArgsError,
    IoError,
    NoMemoryError,
    NotSupportedError,
    OutOfRangeError,
    VmoError,
)
from vmofs.testing import pattern
from vmofs.units import PageRange
from vmofs.vocabulary import PagerOp, VmoOp


def test_clone_write_to_clone_is_read_at_the_root_then_forked_and_never_dirty(world: World) -> None:
    root = world.trap_vmo()
    child = clone(root, ON_WRITE, 2, 4)
    access = world.start(child.write(P + 8, b"x" * P))
    assert world.packets() == ["READ(3,2)"]
    world.supply(root, 3, 2)
    assert (access.result(), world.packets()) == (P, [])
    assert (states(root), dirty(world, root), modified(world, root)) == ("...cc...", "", False)
    data = bytes(child.read_nowait(P, 2 * P) or b"")
    assert data[8 : P + 8] == b"x" * P
    pattern.check(data[P + 8 :], KEY, 4 * P + 8)
    assert (child.committed_pages, child.state_at(1), child.state_at(0)) == (2, PageState.CLEAN, PageState.GAP)


def test_clone_write_to_parent_is_seen_until_the_page_is_forked(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root)
    world.start(child.write(8, b"x"))
    write(world, root, 0, 2)
    assert shows(child) == "?wrrrrrr"


def test_a_large_write_to_a_clone_is_asked_for_in_batches(world: World) -> None:
    root = world.vmo(40)
    child = clone(root, ON_WRITE, 0, 40)
    access = write(world, child, 1, 20)
    assert world.packets() == ["READ(1,16)"]
    world.supply(root, 1, 16)
    assert world.packets() == ["READ(17,4)"]
    world.supply(root, 17, 4)
    assert access.done
    assert shows(child, 22, page=1) == "w" * 20 + ".."


def test_a_write_that_fails_half_way_leaves_what_was_written(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0)
    child = clone(root)
    access = write(world, child, 0, 3)
    world.fail(root, 1, 2)
    with pytest.raises(IoError):
        access.result()
    assert shows(child) == "w......."


def test_a_write_without_memory_changes_nothing() -> None:
    world = World(limit_pages=2)
    root = world.vmo(options=VmoOptions(trap_dirty=False))
    world.supply(root, 0, 2)
    write(world, root, 0, 2)
    with pytest.raises(NoMemoryError):
        write(world, clone(root), 0).result()
    world.check()


def test_a_write_is_out_of_range_when_the_clone_is_cut_meanwhile(world: World) -> None:
    child = clone(world.vmo(), resizable=True)
    accesses = [write(world, child, 4), read(world, child, 4)]
    world.start(child.set_size(2 * P))
    world.supply(child.root, 4)
    for access in accesses:
        with pytest.raises(OutOfRangeError):
            access.result()


def test_zero_pages_in_the_root_are_forked_as_zeros(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 2, zero=True)
    zero(world, root, 2)
    child = clone(root)
    assert shows(child) == "000....."
    world.start(child.commit(0, 3 * P)).result()
    assert (shows(child), child.committed_pages, root.committed_pages) == ("000.....", 3, 0)


# NO_WRITE


def test_snapshot_read_only_vmo_cannot_be_changed_but_its_snapshot_can(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root, no_write=True)
    calls = (child.write(0, b"x"), child.op_zero(0, P), child.commit(0, P), child.set_size(0), child.set_stream_size(0))
    for access in (*calls, child.pin(0, P, write=True)):
        with pytest.raises(AccessDeniedError):
            world.start(access).result()
    world.start(child.pin(0, P)).result().unpin()
    assert write(world, clone(child, MODIFIED), 0).done


# ZERO


def test_op_zero_clone_zeroes_the_view_of_the_clone_only_without_a_packet(world: World) -> None:
    root = world.trap_vmo()
    world.supply(root, 0, 4)
    child = clone(root)
    write(world, child, 1)
    zero(world, child, 1, 5)
    assert (shows(child), shows(root), world.packets()) == ("r00000..", "rrrr....", [])
    assert (child.committed_pages, modified(world, root)) == (0, False)


def test_a_zeroed_page_never_shows_root_content_again(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    zero(world, child, 2)
    world.supply(root, 0, 8)
    write(world, root, 2)
    assert shows(child) == "rr0rrrrr"


def test_op_zero_of_parts_is_a_write_unless_they_are_zero_already(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    zero(world, child, 3)
    access = world.start(child.op_zero(P + 8, 2 * P))
    assert world.packets() == ["READ(1,1)"]
    world.supply(root, 1)
    assert (access.done, world.packets(), shows(child)) == (True, [], ".?00....")


def test_op_zero_within_a_page(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root)
    world.start(child.op_zero(P + 8, 16)).result()
    data = bytes(child.read_nowait(P, P) or b"")
    assert data[8:24] == bytes(16)
    pattern.check(data[24:], KEY, P + 24)
    assert child.committed_pages == 1


def test_op_zero_outside_is_out_of_range_also_after_a_wait(world: World) -> None:
    child = clone(world.vmo(), resizable=True)
    with pytest.raises(OutOfRangeError):
        world.start(child.op_zero(7 * P, 2 * P)).result()
    access = world.start(child.op_zero(8, 7 * P))
    world.start(child.set_size(2 * P))
    world.supply(child.root, 0)
    with pytest.raises(OutOfRangeError):
        access.result()


def test_pinned_pages_of_a_clone_are_zeroed_in_place(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root)
    pin = world.start(child.pin(P, P)).result()
    zero(world, child, 0, 3)
    assert (shows(child), child.committed_pages) == ("000rrrrr", 1)
    world.check()
    pin.unpin()


# COMMIT, hints, pins


def test_clone_chain_commit_forks_in_the_last_clone_only(world: World) -> None:
    root = world.vmo()
    middle = clone(root)
    zero(world, middle, 5)
    last = clone(middle)
    access = world.start(op_range(VmoOp.COMMIT, last, P, 5 * P))
    assert world.packets() == ["READ(1,4)"]
    world.supply(root, 1, 4)
    assert access.done
    assert (last.committed_pages, middle.committed_pages, shows(last)) == (5, 0, ".rrrr0..")


def test_commit_goes_on_with_what_is_left_when_the_clone_is_cut(world: World) -> None:
    child = clone(world.vmo(), resizable=True)
    access = world.start(child.commit(0, 8 * P))
    world.start(child.set_size(2 * P))
    world.supply(child.root, 0, 8)
    assert (access.done, child.committed_pages) == (True, 2)
    with pytest.raises(OutOfRangeError):
        world.start(child.commit(P, 2 * P)).result()


def test_prefetch_reads_and_forks_nothing_and_returns_errors(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    zero(world, child, 2)
    access = world.start(op_range(VmoOp.PREFETCH, child, 0, 4 * P))
    assert world.packets() == ["READ(0,2)"]
    world.supply(root, 0, 2)
    assert world.packets() == ["READ(3,1)"]
    world.fail(root, 3)
    with pytest.raises(IoError):
        access.result()
    assert (child.committed_pages, root.committed_pages) == (0, 2)


def test_hints_reach_the_pages_of_the_root_that_no_clone_on_the_way_has_forked(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 2)
    middle = clone(root)
    write(world, middle, 1)
    last = clone(middle, ON_WRITE, 0, 6)
    access = world.start(op_range(VmoOp.ALWAYS_NEED, last, 0, 4 * P))
    assert list(root.node.always_needed) == [PageRange(0, 1), PageRange(2, 4)]
    assert world.packets() == ["READ(2,2)"]
    world.fail(root, 2)
    assert not access.done  # the failure counts when the whole request was
    world.fail(root, 3)
    assert access.result() is None
    world.start(op_range(VmoOp.DONT_NEED, last, 0, 6 * P)).result()
    assert list(root.node.unneeded) == [PageRange(4, 6)]


@pytest.mark.parametrize("op", list(VmoOp))
def test_operations_outside_the_clone_are_out_of_range(world: World, op: VmoOp) -> None:
    with pytest.raises(OutOfRangeError):
        world.start(op_range(op, clone(world.vmo()), 7 * P, 2 * P)).result()


def test_decommit_is_not_supported_on_clones(world: World) -> None:
    child = clone(world.vmo())
    world.start(op_range(VmoOp.DECOMMIT, child, 0, 0)).result()
    with pytest.raises(NotSupportedError):
        world.start(op_range(VmoOp.DECOMMIT, child, 0, P)).result()


def test_a_pin_forks_and_keeps_what_was_zeroed_while_it_waited(world: World) -> None:
    root = world.vmo()
    child = clone(root, resizable=True)
    access = world.start(child.pin(0, 4 * P, write=True))
    zero(world, child, 1)
    world.supply(root, 0, 4)
    pin = access.result()
    assert (shows(child), child.committed_pages, pin.pages) == ("r0rr....", 4, PageRange(0, 4))
    with pytest.raises(VmoError):
        world.start(child.set_size(P)).result()
    pin.unpin()
    world.start(child.set_size(P)).result()
    assert (child.committed_pages, used(world)) == (1, 5)


# The pager


def test_every_pager_call_on_a_child_is_invalid(world: World) -> None:
    child, pager = clone(world.vmo()), world.pager
    calls = (
        lambda: pager.supply_pages(child, 0, P, world.aux(0, 1), 0),
        lambda: pager.op_range(PagerOp.FAIL, child, 0, P, -40),
        lambda: pager.query_dirty_ranges(child, 0, P),
        lambda: pager.query_vmo_stats(child),
        lambda: pager.detach_vmo(child),
        lambda: pager.evict(child, 0, P),
    )
    for call in calls:
        with pytest.raises(InvalidArgsError):
            call()
