"""Sizes in a family: the root shrinks, clones shrink and grow, contents end within pages (zircon-pager 2.10, 5.3)."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, ON_WRITE, P, clone, read, reference, resize, shows, slice_of, write
from tests.support.dirty_harness import resizable
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadStateError, IoError, OutOfRangeError, UnavailableError
from vmofs.units import MAX_VMO_BYTES


def test_clone_shrink_grow_parent_the_cut_pages_are_zero_in_clones_for_ever(world: World) -> None:
    root = resizable(world, 8)
    world.supply(root, 0, 8)
    child, below = clone(root, ON_WRITE, 2, 6), clone(clone(root), ON_WRITE, 2, 6)
    write(world, child, 5)
    resize(world, root, 4)
    resize(world, root, 8)
    write(world, root, 5, 3)
    assert (shows(root), shows(child, shift=2), shows(below, shift=2)) == ("rrrr0www", "rr000w", "rr0000")
    assert world.packets() == []


def test_clone_resize_parent_ok_a_reader_of_cut_pages_gets_zeros(world: World) -> None:
    root = resizable(world, 8)
    child = clone(root)
    access = read(world, child, 5, 2)
    resize(world, root, 4)
    assert access.result() == bytes(2 * P)


def test_clone_resize_parent_ok_a_parent_clone_that_shrinks_cuts_what_hangs_below_it(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    parent = clone(root, resizable=True)
    write(world, parent, 1)
    child = clone(parent, ON_WRITE, 1, 7)
    resize(world, parent, 3)
    resize(world, parent, 8)
    assert (shows(parent), shows(child, shift=1)) == ("rwr00000", "Wr00000")


def test_clone_resize_clone_hazard_beyond_a_shrunk_clone_is_out_of_range_and_regrown_it_is_zero(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root, resizable=True)
    write(world, child, 4)
    resize(world, child, 3)
    assert (child.size_pages, child.committed_pages) == (3, 0)
    with pytest.raises(OutOfRangeError):
        read(world, child, 3).result()
    resize(world, child, 10)
    assert shows(child, 10) == "rrr0000000"


def test_the_limit_of_a_parent_that_was_cut_and_regrown_holds_for_its_children(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    parent = clone(root, resizable=True)
    resize(world, parent, 2)
    resize(world, parent, 8)
    assert shows(clone(parent, ON_WRITE, 1, 7), shift=1) == "r000000"


@pytest.mark.parametrize("first", [0, 1])
def test_what_the_root_cut_stays_zero_when_only_one_of_two_snapshots_is_left(world: World, first: int) -> None:
    root = resizable(world, 8)
    world.supply(root, 0, 8)
    parent = clone(root)
    write(world, parent, 3, 3)
    child = clone(parent, MODIFIED, first, 8 - first)
    resize(world, root, 2)
    resize(world, root, 8)
    write(world, root, 0, 8)
    parent.close()
    assert shows(child, shift=first) == ("ww0www00" if first == 0 else "W0WWW00")


def test_set_size_errors_and_what_they_leave(world: World) -> None:
    child = clone(world.vmo(), resizable=True)
    with pytest.raises(UnavailableError):
        resize(world, clone(child), 8)
    with pytest.raises(OutOfRangeError):
        world.start(child.set_size(MAX_VMO_BYTES + 1)).result()
    world.supply(child.root, 0, 8)
    world.start(child.pin(4 * P, P)).result()
    with pytest.raises(BadStateError, match="pinned"):
        resize(world, child, 4)
    assert child.size_pages == 8


def test_the_rest_of_the_last_page_is_zeroed_by_a_write_whose_failure_is_ignored(world: World) -> None:
    root = world.vmo()
    child = clone(root, resizable=True)
    access = world.start(child.set_size(2 * P + 8))
    assert (child.size_pages, child.stream_size, world.packets()) == (3, 2 * P + 8, ["READ(2,1)"])
    world.supply(root, 2)
    assert access.done
    assert bytes(child.read_nowait(2 * P + 8, P - 8) or b"") == bytes(P - 8)
    again = world.start(child.set_size(P + 8))
    world.fail(root, 1)
    assert again.result() is None


def test_growing_a_content_that_ends_within_a_page_does_not_bring_up_the_parent(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root, resizable=True)
    world.start(child.set_size(2 * P - 8)).result()
    child.node.stream_size = P + 8
    world.start(child.set_size(4 * P)).result()
    assert bytes(child.read_nowait(P + 8, P - 8) or b"") == bytes(P - 8)
    assert shows(child, 1) == "r"


@pytest.mark.parametrize("kind", ["clone", "slice of the root", "slice of a clone"])
def test_set_stream_size_makes_everything_beyond_zero_in_the_child(world: World, kind: str) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    parent = root if kind == "slice of the root" else clone(root)
    child = clone(root, ON_WRITE, 1, 6) if kind == "clone" else slice_of(parent, 1, 6)
    world.start(child.set_stream_size(6 * P)).result()
    world.start(child.set_stream_size(2 * P)).result()
    world.start(child.set_stream_size(5 * P)).result()
    assert (child.stream_size, shows(child, shift=1)) == (5 * P, "rr0000")
    assert shows(root) == ("rrr0000r" if kind == "slice of the root" else "rrrrrrrr")
    with pytest.raises(OutOfRangeError):
        world.start(child.set_stream_size(6 * P + 1)).result()


def test_set_stream_size_that_fails_changes_nothing(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    access = world.start(child.set_stream_size(P + 8))
    world.fail(root, 1)
    with pytest.raises(IoError):
        access.result()
    assert (child.stream_size, shows(child)) == (8 * P, "........")


def test_a_reference_has_the_sizes_of_the_vmo_and_resizes_it(world: World) -> None:
    root = world.vmo(options=VmoOptions(resizable=True))
    view = reference(root, resizable=True)
    resize(world, view, 4)
    assert (root.size_pages, view.size_pages, view.stream_size) == (4, 4, 4 * P)
    world.start(view.set_stream_size(P)).result()
    assert (root.stream_size, view.stream_size) == (P, P)
    with pytest.raises(UnavailableError):
        resize(world, slice_of(world.vmo(), 0, 4), 2)
