"""By which names what a VMO shows can be written to, and who sees what is written to it."""

from __future__ import annotations

from tests.oracle.world import World
from tests.support.children_harness import MODIFIED, P, aux_view, clone, reference, slice_of, snapshot, write
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import Vmo
from vmofs.units import PageRange


def written_by(vmo: Vmo, start: int, end: int, *, own: bool = True) -> dict[object, tuple[int, int]]:
    found = vmo.node.written_by(PageRange(start, end), own=own)
    assert len({id(shown) for shown, _ in found}) == len(found)
    return {shown: (pages.start, pages.end) for shown, pages in found}


def test_a_vmo_is_written_by_its_own_name_and_its_views_as_far_as_they_show_the_pages(world: World) -> None:
    root = world.vmo()
    assert written_by(root, 1, 5) == {root: (1, 5)}
    view, other = slice_of(root, 3, 4), reference(root)
    assert written_by(root, 1, 5) == {root: (1, 5), view: (0, 2), other: (1, 5)}
    assert written_by(root, 0, 3) == {root: (0, 3), other: (0, 3)}
    root.close()
    assert written_by(view, 3, 4) == {view: (0, 1), other: (3, 4)}


def test_what_a_clone_shows_is_written_by_names_of_all_above_it(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    middle = clone(root, page=2, pages=6)
    write(world, middle, 1)
    below = clone(middle, page=1, pages=4)
    view = slice_of(root, 3, 1)
    assert written_by(below, 0, 2) == {below: (0, 2), middle: (1, 3), root: (3, 5), view: (0, 1)}
    assert written_by(below, 0, 2, own=False) == {middle: (1, 3), root: (3, 5), view: (0, 1)}
    assert written_by(below, 4, 9) == {below: (4, 9)}  # beyond what it shows of others
    assert written_by(root, 0, 1, own=False) == {}


def test_nobody_writes_to_what_is_hidden(world: World) -> None:
    aux = AuxVmo(world.system, 8 * P)
    aux.write_nowait(0, b"x" * P)
    child = snapshot(aux)
    assert written_by(child, 0, 8) == {child: (0, 8)}
    assert aux.node.seen_by() == [aux]


def test_what_is_written_is_seen_by_all_names_and_by_those_below_that_may_not_have_forked_it(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    below, view = clone(root), slice_of(root, 0, 2)
    last, window = clone(below, MODIFIED, 0, 4), reference(below)
    assert set(root.node.seen_by()) >= {root, view, below, window, last}
    assert set(below.node.seen_by()) <= {below, window, last}
    aux = AuxVmo(world.system, 8 * P, resizable=False)
    part = aux_view(aux, 0, 2)
    assert part.node.seen_by() == [aux, part]
