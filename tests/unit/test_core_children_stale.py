"""Whose copies of pages are stale when a member of a family changes; a write is no news to who has written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, ON_WRITE, P, clone, resize, slice_of, snapshot, write, zero
from tests.support.dirty_harness import resizable
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.units import PageRange
from vmofs.vocabulary import ChildKind

Change = Callable[[World, PagerVmo, CloneVmo, PagerView], object]


@pytest.mark.parametrize(
    ("change", "root_stale", "clone_stale", "slice_stale"),
    [
        (lambda world, root, _clone, _view: write(world, root, 2, 2), "", "1", "0 1"),
        (lambda world, _root, child, _view: write(world, child, 2, 2), "", "", ""),
        (lambda world, _root, _clone, view: write(world, view, 0, 2), "2 3", "1", ""),
        (lambda world, root, _clone, _view: zero(world, root, 3, 2), "3 4", "3", "1 2"),
        (lambda world, _root, child, _view: zero(world, child, 0, 2), "", "0 1", ""),
        (lambda world, root, _clone, _view: world.pager.evict(root, 4 * P, P), "4", "3", "2"),
        (lambda world, root, _clone, _view: world.pager.detach_vmo(root), "0 1 2 3 4 5 6 7", "0 1 3 4 5", "0 1 2 3"),
    ],
)
def test_what_others_may_have_kept_of_a_changed_page_is_stale(
    world: World, change: Change, root_stale: str, clone_stale: str, slice_stale: str
) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child, view = clone(root, ON_WRITE, 1, 6), slice_of(root, 2, 4)
    write(world, child, 2)
    world.system.take_stale()
    change(world, root, child, view)
    stale = world.system.take_stale()
    expected = {root: root_stale, child: clone_stale, view: slice_stale}
    assert {vmo: pages(stale.get(vmo, [])) for vmo in expected} == expected


def pages(parts: list[PageRange]) -> str:
    """Return page numbers."""
    return " ".join(str(page) for part in parts for page in range(*part))


def test_root_shrink_makes_the_cut_pages_stale_in_clones(world: World) -> None:
    root = resizable(world, 8)
    world.supply(root, 0, 6)
    parent = clone(root, resizable=True)
    write(world, parent, 5)
    child = clone(parent, MODIFIED, 1, 7)
    world.system.take_stale()
    resize(world, root, 4)
    assert world.system.take_stale() == {
        root: [PageRange(4, 6)],
        parent: [PageRange(4, 5)],
        child: [PageRange(3, 4)],
    }
    resize(world, parent, 2)
    assert world.system.take_stale() == {parent: [PageRange(2, 4), PageRange(5, 6)]}


def test_two_way_snapshots_hear_nothing_of_each_other_but_views_of_one_do(world: World) -> None:
    aux = world.aux(0, 4)
    snapshot(aux, 0, 4)
    view = create_child(aux, ChildKind.REFERENCE, 0, 0)
    world.system.take_stale()
    aux.write_nowait(0, b"x")
    assert world.system.take_stale() == {view: [PageRange(0, 1)]}
    aux.op_zero(P, P)
    assert world.system.take_stale() == {view: [PageRange(1, 2)], aux: [PageRange(1, 2)]}


def test_a_closed_child_has_nothing_stale(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root)
    write(world, root, 0)
    child.close()
    write(world, root, 1)
    assert world.system.take_stale() == {}
