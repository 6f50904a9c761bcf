"""Snapshots of anonymous memory: two-way, whatever they are called (zircon-pager 2.12)."""

from __future__ import annotations

import pytest

from tests.oracle.world import AUX_KEY, World
from tests.support.children_harness import FULL, MODIFIED, ON_WRITE, P, shows, snapshot, used
from vmofs.core.operations import op_range
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.status import AccessDeniedError, NoMemoryError, NotSupportedError, OutOfRangeError, UnavailableError
from vmofs.testing import pattern
from vmofs.units import PageRange
from vmofs.vocabulary import ChildKind, VmoOp


def put(aux: AuxVmo, page: int, pages: int = 1) -> None:
    """Write pages of the object with ``AUX_KEY``."""
    aux.write_nowait(page * P, pattern.make_pages(AUX_KEY, PageRange(page, page + pages)))


@pytest.mark.parametrize("kind", [FULL, ON_WRITE, MODIFIED])
def test_parent_and_snapshot_diverge_both_ways(world: World, kind: ChildKind) -> None:
    aux = world.aux(0, 6)
    child = snapshot(aux, 1, 8, kind=kind)
    assert (shows(child, shift=1), used(world), child.committed_pages) == ("rrrrr000", 6, 5)
    put(aux, 2)
    child.write_nowait(2 * P, b"")
    put(child, 3)
    assert (shows(aux), shows(child, shift=1)) == ("rrwrrr", "rrrwr000")
    assert used(world) == 8
    assert (aux.committed_pages, child.committed_pages) == (6, 5)


def test_only_what_is_written_is_copied_and_only_once(world: World) -> None:
    aux = world.aux(0, 4)
    child = snapshot(aux, 0, 4)
    aux.write_nowait(8, b"x")
    assert used(world) == 5
    child.write_nowait(8, b"y")
    assert used(world) == 5
    pattern.check(child.read_nowait(16, P - 16), pattern_key(), 16)


def pattern_key() -> int:
    """Return the key of the pages of ``World.aux``."""
    return 7 * pattern.KEY_STEP


def test_a_snapshot_of_a_snapshot_and_a_snapshot_beside_it(world: World) -> None:
    aux = world.aux(0, 4)
    first = snapshot(aux, 0, 4)
    put(first, 0)
    second = snapshot(first, 0, 4)
    put(aux, 1)
    third = snapshot(aux, 0, 4)
    for other in (aux, first):
        other.op_zero(0, 4 * P)
    assert (shows(second), shows(third)) == ("wrrr", "rwrr")
    for other in (second, aux, third, first):
        other.close()
        world.check()
    assert used(world) == 0


def test_closing_the_parent_or_the_child_leaves_the_other_whole_and_no_trace(world: World) -> None:
    for closes_parent in (True, False):
        aux = world.aux(0, 4)
        child = snapshot(aux, 0, 4)
        put(aux, 1)
        put(child, 2)
        (aux if closes_parent else child).close()
        left = child if closes_parent else aux
        assert shows(left) == ("rrwr" if closes_parent else "rwrr")
        assert (used(world), left.node.parent, left.committed_pages) == (4, None, 4)
        left.close()


def test_cutting_and_zeroing_free_what_nobody_sees(world: World) -> None:
    aux = world.aux(0, 6)
    child = snapshot(aux, 0, 6)
    aux.set_size(4 * P)
    child.op_zero(3 * P, 3 * P)
    assert (used(world), child.committed_pages) == (4, 3)
    aux.set_size(6 * P)
    assert (shows(aux), shows(child)) == ("rrrr00", "rrr000")


def test_zeroing_a_part_of_a_shared_page_copies_it(world: World) -> None:
    aux = world.aux(0, 2)
    child = snapshot(aux, 0, 2, resizable=True)
    child.op_zero(8, 8)
    child.set_size(P + 8)
    child.set_size(2 * P)
    assert (shows(aux), used(world)) == ("rr", 4)
    assert bytes(child.read_nowait(P + 8, P - 8)) == bytes(P - 8)


def test_a_snapshot_that_can_grow_never_brings_up_what_lay_behind_its_end(world: World) -> None:
    child = create_child(world.aux(0, 2), FULL, 0, P + 8, resizable=True)
    assert isinstance(child, AuxVmo)
    child.write_nowait(P + 100, b"x")
    assert bytes(child.read_nowait(P + 8, 92)) == bytes(92)
    assert child.size_bytes == P + 101


def test_nor_does_a_larger_snapshot_of_one_that_cannot_grow(world: World) -> None:
    child = create_child(world.aux(0, 2), FULL, 0, P + 8)
    assert isinstance(child, AuxVmo)
    larger = snapshot(child, 0, 2)
    pattern.check(larger.read_nowait(P, 8), pattern_key(), P)
    assert bytes(larger.read_nowait(P + 8, P)) == bytes(P - 8)


def test_without_memory_for_that_it_is_not_made() -> None:
    world = World(limit_pages=2)
    aux = world.aux(0, 2)
    with pytest.raises(NoMemoryError):
        create_child(aux, FULL, 0, 8)
    assert (aux.lineage.num_children, shows(aux)) == (0, "rr")
    world.check()


def test_a_write_without_memory_changes_nothing() -> None:
    world = World(limit_pages=3)
    aux = world.aux(0, 3)
    child = snapshot(aux, 0, 3)
    for call in (lambda: put(child, 0, 2), lambda: child.commit(0, P), lambda: child.take(0, 2 * P)):
        with pytest.raises(NoMemoryError):
            call()
    assert (shows(child), shows(aux)) == ("rrr", "rrr")
    world.check()


def test_commit_forks_and_decommit_is_not_supported_while_there_are_snapshots(world: World) -> None:
    aux = world.aux(0, 2)
    child = snapshot(aux, 0, 3)
    world.start(op_range(VmoOp.COMMIT, child, 0, 3 * P)).result()
    assert used(world) == 5
    with pytest.raises(NotSupportedError, match="snapshots"):
        world.start(op_range(VmoOp.DECOMMIT, aux, 0, P)).result()
    child.close()
    world.start(op_range(VmoOp.DECOMMIT, aux, 0, P)).result()
    assert shows(aux) == "0r"


def test_a_fixed_snapshot_does_not_grow_and_one_without_write_does_not_change(world: World) -> None:
    aux = world.aux(0, 2)
    with pytest.raises(UnavailableError):
        snapshot(aux, 0, 2).write_nowait(2 * P, b"x")
    child = create_child(aux, FULL, 0, 2 * P, no_write=True)
    assert isinstance(child, AuxVmo)
    with pytest.raises(AccessDeniedError):
        child.write_nowait(0, b"x")
    for call in (child.commit, child.decommit, child.op_zero, child.check_can_give):
        with pytest.raises(AccessDeniedError):
            call(0, P)
    with pytest.raises(OutOfRangeError):  # the range is looked at first
        child.op_zero(2 * P, P)
    assert snapshot(child, 0, 2).write_nowait(0, b"x") == 1


def test_a_child_hangs_as_high_as_it_can(world: World) -> None:
    aux = world.aux(0, 4)
    children = [snapshot(aux, 0, 4) for _ in range(50)]
    nested = snapshot(snapshot(children[0], 1, 3), 1, 2)
    assert {child.node.parent for child in (*children, nested)} == {aux.node.parent}
    assert (shows(nested, shift=2), used(world)) == ("rr", 4)


def test_of_three_that_share_one_may_go_and_of_two_generations_the_older(world: World) -> None:
    aux = world.aux(0, 4)
    older = [snapshot(aux, 0, 4) for _ in range(2)]
    older.pop().close()
    put(aux, 1)
    newer = snapshot(aux, 1, 3)
    put(aux, 2)
    older.pop().close()
    assert (shows(aux), shows(newer, shift=1), used(world)) == ("rwwr", "Wrr", 5)
    world.check()


def test_snapshots_that_show_only_a_part_of_what_was_frozen(world: World) -> None:
    aux = world.aux(0, 6)
    middle = snapshot(aux, 2, 2)
    aux.close()
    assert (shows(middle, shift=2), used(world)) == ("rr", 2)
    other = snapshot(middle, 1, 4)
    put(middle, 1)
    assert shows(other, shift=3) == "r000"
    middle.close()
    assert (shows(other, shift=3), used(world)) == ("r000", 1)


def test_the_largest_vmo_can_have_snapshots_at_no_cost(world: World) -> None:
    aux = AuxVmo(world.system, 2**62)
    put(aux, 2**40)
    child = create_child(aux, FULL, 2**40 * P, 2**61)
    assert isinstance(child, AuxVmo)
    aux.op_zero(0, 2**62)
    child.op_zero(P, 2**61 - P)
    assert (child.committed_pages, used(world)) == (1, 1)
    assert bytes(child.read_nowait(0, P)) == pattern.make_pages(AUX_KEY, PageRange(2**40, 2**40 + 1))
