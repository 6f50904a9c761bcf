"""Copy-on-write costs what was changed, not what was shared: in frames, in the tables that hold them, and in time."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.conftest import NIGHTLY
from tests.oracle.world import World
from tests.support.children_harness import FULL, MODIFIED, ON_WRITE, P, used
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import Vmo, create_child
from vmofs.core.vmos.vmo import CloneVmo, PagerVmo
from vmofs.vocabulary import ChildKind

VMO_PAGES = 2**20  # 4 GiB
SNAPSHOTS = 100 if NIGHTLY else 20
CHANGED_PAGES = 1000
BASE_PAGES = 64  # of the VMO itself that have content, spread over it
_BYTES_OF_TABLES_PER_CHANGED_PAGE = 0.2 * P
_BYTES = b"changed"


@pytest.fixture
def traced() -> Iterator[None]:
    """Count the memory of Python's objects."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def change(world: World, vmo: Vmo, seed: int) -> None:
    """Write a little into pages that lie far apart, never twice into one."""
    step = VMO_PAGES // CHANGED_PAGES
    for number in range(CHANGED_PAGES):
        offset = (number * step + seed * 7 % step) * P
        if isinstance(vmo, AuxVmo):
            vmo.write_nowait(offset, _BYTES)
        else:
            assert isinstance(vmo, CloneVmo)
            world.start(vmo.write(offset, _BYTES)).result()


def root(world: World, *, anonymous: bool) -> AuxVmo | PagerVmo:
    """Return a VMO of 4 GiB with some content; what else there is of it is zeros."""
    if anonymous:
        aux = AuxVmo(world.system, VMO_PAGES * P)
        for page in range(0, VMO_PAGES, VMO_PAGES // BASE_PAGES):
            aux.write_nowait(page * P, b"base")
        return aux
    vmo = world.vmo(VMO_PAGES)
    world.supply(vmo, 0, VMO_PAGES, zero=True)
    return vmo


def grow(world: World, kind: ChildKind, snapshots: int, *, chain: bool = False) -> list[Vmo]:
    """Make snapshots of one VMO, or each of the one before, and change pages of each; check what that costs."""
    parent: Vmo = root(world, anonymous=kind is FULL)
    before = used(world)
    children = []
    for number in range(snapshots):
        child = create_child(parent, kind, 0, VMO_PAGES * P)
        change(world, child, number)
        children.append(child)
        parent = child if chain else parent
    changed = snapshots * CHANGED_PAGES
    assert changed <= used(world) - before <= 1.01 * changed
    return children


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FULL, ON_WRITE])
def test_a_vmo_of_4_gib_grows_by_the_1000_pages_that_are_changed_in_each_snapshot(kind: ChildKind) -> None:
    grow(World(), kind, SNAPSHOTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FULL, MODIFIED])
@pytest.mark.usefixtures("traced")
def test_the_tables_grow_by_the_changes_too_and_all_is_given_back(kind: ChildKind) -> None:
    world = World()
    before = tracemalloc.get_traced_memory()[0]
    children = grow(world, kind, 5, chain=True)
    tables = tracemalloc.get_traced_memory()[0] - before
    assert tables < _BYTES_OF_TABLES_PER_CHANGED_PAGE * 5 * CHANGED_PAGES
    for child in children:
        child.close()
    assert used(world) <= BASE_PAGES


def test_making_and_closing_a_snapshot_costs_the_same_whatever_is_shared() -> None:
    world = World()
    aux = AuxVmo(world.system, VMO_PAGES * P)
    change(world, aux, 0)
    before = used(world)
    snapshots = [create_child(aux, FULL, 0, VMO_PAGES * P) for _ in range(200)]
    assert used(world) == before
    for child in snapshots:
        child.close()
    assert (used(world), aux.committed_pages) == (before, CHANGED_PAGES)
