"""SNAPSHOT_MODIFIED: what a clone has modified is frozen for its snapshot, the root is not (zircon-pager 2.12, 5.3)."""

from __future__ import annotations

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, ON_WRITE, P, clone, read, resize, shows, used, write, zero
from tests.support.dirty_harness import resizable
from vmofs.core.vmos.vmo import CloneVmo


def family(world: World) -> tuple[CloneVmo, CloneVmo]:
    """Return a clone that has written pages 1 and 2 and zeroed 3, and its snapshot; the root has 0 to 5."""
    root = world.vmo()
    world.supply(root, 0, 6)
    parent = clone(root, resizable=True)
    write(world, parent, 1, 2)
    zero(world, parent, 3)
    return parent, clone(parent, MODIFIED, resizable=True)


def test_the_snapshot_shows_what_the_parent_shows_and_costs_nothing(world: World) -> None:
    parent, child = family(world)
    assert shows(parent) == shows(child) == "rww0rr.."
    assert used(world) == 8
    assert (parent.committed_pages, child.committed_pages) == (2, 2)
    assert (child.statistics().private, child.statistics().shared) == (0, 2)


def test_modified_pages_are_frozen_and_the_root_goes_on_being_seen(world: World) -> None:
    parent, child = family(world)
    zero(world, parent, 1)
    world.start(parent.write(2 * P, bytes(P)))
    zero(world, child, 0)
    write(world, parent.root, 4)
    assert (shows(parent), shows(child)) == ("r000wr..", "0ww0wr..")


def test_a_page_is_copied_while_others_see_it_and_moves_to_the_last_who_does(world: World) -> None:
    parent, child = family(world)
    world.start(child.write(P, b"child"))
    assert used(world) == 9
    world.start(parent.write(P, b"parent"))
    assert used(world) == 9
    assert bytes(parent.read_nowait(P, 6) or b"") == b"parent"
    assert bytes(child.read_nowait(P, 5) or b"") == b"child"


def test_a_page_that_nobody_sees_any_more_is_freed(world: World) -> None:
    parent, child = family(world)
    zero(world, parent, 1)
    assert used(world) == 8
    zero(world, child, 1)
    assert used(world) == 7
    resize(world, parent, 0)
    resize(world, child, 2)
    assert (used(world), shows(child)) == (6, "r0")


def test_snapshots_below_the_snapshot_and_beside_it(world: World) -> None:
    parent, child = family(world)
    write(world, child, 5)
    below = clone(child, MODIFIED, 1, 6)
    beside = clone(parent, MODIFIED)
    zero(world, child, 5)
    zero(world, parent, 1)
    assert shows(below, shift=1) == "WW0rW."
    assert shows(beside) == "rww0rr.."
    assert shows(child) == "rww0r0.."


def test_closing_the_parent_leaves_the_snapshot_everything(world: World) -> None:
    parent, child = family(world)
    write(world, parent, 0, 6)
    parent.close()
    assert (shows(child), used(world)) == ("rww0rr..", 8)
    child.close()
    assert used(world) == 6


def test_closing_the_snapshot_leaves_the_parent_as_if_there_had_been_none(world: World) -> None:
    parent, child = family(world)
    write(world, child, 1, 3)
    child.close()
    assert (shows(parent), used(world)) == ("rww0rr..", 8)
    assert (parent.committed_pages, parent.node.parent) == (2, parent.root.node)
    clone(parent, ON_WRITE, 4, 2)


def test_a_part_of_a_clone_as_a_snapshot_outlives_it(world: World) -> None:
    parent, child = family(world)
    child.close()
    part = clone(parent, MODIFIED, 2, 3)
    resize(world, parent, 0)
    parent.close()
    assert (bytes(part.read_nowait(P, P) or b""), used(world)) == (bytes(P), 7)
    assert shows(part, 3, page=2, shift=2) == "r"


def test_an_unmodified_page_is_read_at_the_root_through_hidden_nodes(world: World) -> None:
    _, child = family(world)
    below = clone(clone(child, MODIFIED, 1, 7), MODIFIED, 1, 6)
    access = read(world, below, 0, 6)
    assert world.packets() == ["READ(6,2)"]
    world.supply(child.root, 6, 2)
    assert access.done


def test_root_shrink_reaches_snapshots_through_hidden_nodes(world: World) -> None:
    root = resizable(world, 8)
    world.supply(root, 0, 8)
    parent = clone(root)
    write(world, parent, 1)
    child = clone(parent, MODIFIED)
    resize(world, root, 4)
    resize(world, root, 8)
    assert shows(child) == shows(parent) == "rwrr0000"
