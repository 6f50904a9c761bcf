"""How families end: handles, views, clones, and the COMPLETE of the last one (zircon-pager 3.7, 5.3)."""

from __future__ import annotations

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, ON_WRITE, clone, read, reference, shows, slice_of, used, write
from vmofs.core.pager import Pager
from vmofs.core.vmos.children import Vmo, create_child
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import Key
from vmofs.vocabulary import ChildKind


def test_close_root_clones_still_read_and_still_fault_to_the_pager(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    world.supply(root, 0, 2)
    world.pager.close_vmo(root)
    assert (world.packets(), list(world.pager.vmos)) == ([], [root])
    access = read(world, child, 1, 2)
    assert world.packets() == ["READ(2,1)"]
    world.supply(root, 2)
    assert access.done
    child.close()
    assert (world.packets(), list(world.pager.vmos), used(world)) == (["COMPLETE"], [], 0)


def test_complete_comes_when_the_last_of_the_family_goes(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 4)
    first = clone(root)
    write(world, first, 0)
    second = clone(first)
    below = clone(second, ON_WRITE, 1, 2)
    members: list[Vmo] = [root, slice_of(root, 0, 2), first, second, reference(first), below]
    for member in members:
        assert world.packets() == []
        member.close()
        world.check()
    assert world.packets() == ["COMPLETE"]
    assert (world.system.statistics().objects, used(world)) == (0, 0)


def test_the_end_of_a_vmo_is_told_when_its_last_child_goes_also_after_its_pager_was_closed(world: World) -> None:
    freed: list[PagerVmo] = []
    pager = Pager(world.system, freed.append)
    roots = [pager.create_vmo(world.port, Key(number), 4096) for number in range(2)]
    children = [clone(root) for root in roots]
    for root in roots:
        root.close()
    assert not freed
    children[1].close()
    assert freed == [roots[1]]
    pager.close()
    children[0].close()
    assert freed == [roots[1], roots[0]]


def test_a_closed_clone_that_another_one_sees_keeps_its_pages(world: World) -> None:
    root = world.vmo()
    parent = clone(root)
    world.supply(root, 0, 4)
    write(world, parent, 0)
    child = clone(parent)
    parent.close()
    assert shows(child) == "wrrr...."
    child.close()
    assert used(world) == 4


def test_a_view_keeps_the_vmo_and_a_second_close_does_nothing(world: World) -> None:
    root = world.vmo()
    view = slice_of(root, 1, 2)
    for _ in range(2):
        root.close()
    access = read(world, view, 0)
    assert world.packets() == ["READ(1,1)"]
    world.supply(root, 1)
    assert access.done
    for _ in range(2):
        view.close()
    assert world.packets() == ["COMPLETE"]


def test_closing_the_pager_with_clones_alive_leaves_no_packet_behind(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    world.pager.close_vmo(root)
    world.pager.close()
    child.close()
    assert (world.packets(), world.system.statistics().objects) == ([], 0)


def test_requests_of_a_family_count_after_its_end(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    read(world, child, 1).cancel()
    world.pager.close_vmo(root)
    child.close()
    statistics = world.pager.statistics()
    assert (statistics.vmos, statistics.read_requests_total) == (0, 1)


def test_num_children_counts_open_ones_of_all_kinds_and_takes_over_those_of_closed_children(world: World) -> None:
    root = world.vmo()
    child = clone(root)
    grandchildren: list[Vmo] = [
        clone(child, MODIFIED),
        slice_of(child, 0, 1),
        create_child(child, ChildKind.REFERENCE, 0, 0),
    ]
    slice_of(root, 0, 1)
    assert (root.lineage.num_children, child.lineage.num_children) == (2, 3)
    child.close()
    assert root.lineage.num_children == 4
    root.close()
    for grandchild in grandchildren:
        grandchild.close()
    assert root.lineage.num_children == 0
