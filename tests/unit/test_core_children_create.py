"""Which children a VMO can have, and every error of zx_vmo_create_child (zircon-pager 2.12)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle.world import World
from tests.support.children_harness import (
    FULL,
    MODIFIED,
    ON_WRITE,
    P,
    clone,
    reference,
    resize,
    shows,
    slice_of,
    snapshot,
    write,
    zero,
)
from tests.support.dirty_harness import resizable
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import Vmo, create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadStateError, InvalidArgsError, NotSupportedError, OutOfRangeError
from vmofs.units import MAX_VMO_BYTES, UINT64_MAX
from vmofs.vocabulary import AuxKind, ChildKind

SLICE, REFERENCE = ChildKind.SLICE, ChildKind.REFERENCE
SNAPSHOTS = [FULL, ON_WRITE, MODIFIED]


@pytest.fixture
def vmo(world: World) -> Vmo:
    """Return a pager VMO of eight pages."""
    return world.vmo()


def test_a_child_has_the_unrounded_size_as_stream_size(vmo: Vmo) -> None:
    child = create_child(vmo, ON_WRITE, P, 2 * P + 5)
    assert (child.size_pages, getattr(child, "stream_size", None)) == (3, 2 * P + 5)
    assert create_child(vmo, ON_WRITE, P, 0).size_pages == 0


@pytest.mark.parametrize("kind", list(ChildKind))
def test_a_size_that_cannot_be_is_out_of_range_before_all_else(vmo: Vmo, kind: ChildKind) -> None:
    with pytest.raises(OutOfRangeError):
        create_child(vmo, kind, 1, MAX_VMO_BYTES + 1, no_write=True, resizable=True)


@pytest.mark.parametrize("kind", list(ChildKind))
def test_no_write_with_resizable_is_invalid(vmo: Vmo, kind: ChildKind) -> None:
    with pytest.raises(InvalidArgsError):
        create_child(vmo, kind, 0, 0, no_write=True, resizable=True)


@pytest.mark.parametrize("kind", [ON_WRITE, MODIFIED, SLICE])
def test_an_unaligned_offset_is_invalid(vmo: Vmo, kind: ChildKind) -> None:
    with pytest.raises(InvalidArgsError, match="not page aligned"):
        create_child(vmo, kind, 8, P)


def test_a_range_that_overflows_is_out_of_range_and_invalid_if_it_does_so_only_in_the_root(vmo: Vmo) -> None:
    with pytest.raises(OutOfRangeError):
        create_child(vmo, ON_WRITE, UINT64_MAX - P + 1, P)
    below = UINT64_MAX - 3 * P + 1
    child = clone(vmo, ON_WRITE, 4)
    with pytest.raises(InvalidArgsError, match="overflows"):
        create_child(child, ON_WRITE, below, P)
    create_child(vmo, ON_WRITE, below, P)


# Snapshots in a pager family


@pytest.mark.parametrize(
    "make", [lambda vmo: vmo, clone, lambda vmo: slice_of(vmo, 0, 8), lambda vmo: clone(clone(vmo), MODIFIED)]
)
def test_a_full_snapshot_is_not_supported_anywhere_in_a_pager_family(vmo: Vmo, make: Callable[[Vmo], Vmo]) -> None:
    with pytest.raises(NotSupportedError):
        create_child(make(vmo), FULL, 0, P)


def test_at_least_on_write_of_root_clones_and_slices_of_the_root(world: World, vmo: Vmo) -> None:
    world.start(clone(vmo).commit(0, P))
    for parent in (vmo, clone(vmo), slice_of(vmo, 1, 2), reference(vmo), slice_of(clone(vmo), 1, 2)):
        assert clone(parent, ON_WRITE, 0, 2).root is vmo


def test_at_least_on_write_of_a_slice_of_a_snapshot_is_not_supported(vmo: Vmo) -> None:
    child = clone(vmo)
    clone(child, MODIFIED)
    with pytest.raises(NotSupportedError):
        clone(slice_of(child, 0, 2), ON_WRITE, 0, 2)


def test_at_least_on_write_over_a_tree_of_modified_is_silently_upgraded(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    first = clone(root)
    clone(first, MODIFIED)
    write(world, first, 0)
    upgraded = clone(first, ON_WRITE)
    world.start(first.write(0, bytes(P)))
    assert shows(upgraded) == "wrrrrrrr"


def test_modified_of_the_root_its_slices_its_clones_and_snapshots_of_those(vmo: Vmo) -> None:
    first = clone(vmo, MODIFIED)
    clone(slice_of(vmo, 0, 8), MODIFIED)
    clone(clone(clone(first, MODIFIED), MODIFIED), MODIFIED)
    clone(reference(first), MODIFIED)


def test_modified_of_a_slice_of_a_clone_is_not_supported(vmo: Vmo) -> None:
    with pytest.raises(NotSupportedError):
        clone(slice_of(clone(vmo), 0, 8), MODIFIED)


def test_modified_where_on_write_children_hang_below_or_another_clone_above_is_not_supported(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    parent = clone(root)
    write(world, parent, 0)
    child = clone(parent)
    with pytest.raises(NotSupportedError, match="children"):
        clone(parent, MODIFIED)
    with pytest.raises(NotSupportedError, match="below another clone"):
        clone(child, MODIFIED)
    child.close()
    clone(parent, MODIFIED)


def test_a_clone_hangs_as_high_as_it_can_so_an_unwritten_parent_does_not_count(world: World) -> None:
    parent = clone(world.vmo())
    child = clone(parent)
    clone(parent, MODIFIED)
    clone(child, MODIFIED)


@pytest.mark.parametrize("way", ["past the limit", "before the limit sank", "below a hidden node"])
def test_what_a_parent_zeroed_beyond_its_limit_does_not_count_either(world: World, way: str) -> None:
    root = resizable(world, 8)
    parent = clone(root)
    if way == "before the limit sank":
        zero(world, parent, 5)
    resize(world, root, 4)
    if way == "past the limit":
        zero(world, parent, 5)
    if way == "below a hidden node":
        beside = clone(parent, MODIFIED)
        zero(world, parent, 5)
        beside.close()
    child = clone(parent)
    clone(parent, MODIFIED)
    zero(world, parent, 0)
    write(world, parent, 5)
    assert (shows(parent), shows(child)) == ("0...0w00", "....0000")


def test_a_two_way_snapshot_of_pinned_pages_is_bad_state_but_an_on_write_one_is_not(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    parent = clone(root)
    pin = world.start(parent.pin(0, P)).result()
    with pytest.raises(BadStateError, match="pinned"):
        clone(parent, MODIFIED)
    clone(parent, ON_WRITE).close()
    pin.unpin()
    clone(parent, MODIFIED)


def test_a_snapshot_must_not_leave_the_slice_but_may_leave_the_parent(vmo: Vmo) -> None:
    with pytest.raises(OutOfRangeError):
        clone(slice_of(vmo, 0, 4), ON_WRITE, 2, 3)
    assert shows(clone(vmo, ON_WRITE, 6, 4)) == "..00"
    assert shows(clone(vmo, ON_WRITE, 20, 2)) == "00"


# Slices and references


def test_slices_take_no_option_but_no_write_and_lie_inside(vmo: Vmo) -> None:
    with pytest.raises(InvalidArgsError):
        create_child(vmo, SLICE, 0, P, resizable=True)
    for page, pages in ((0, 9), (8, 1), (9, 0)):
        with pytest.raises(InvalidArgsError):
            slice_of(vmo, page, pages)
    with pytest.raises(InvalidArgsError):
        create_child(vmo, SLICE, UINT64_MAX - P + 1, P)
    assert slice_of(vmo, 8, 0, no_write=True).size_pages == 0


def test_a_slice_of_a_resizable_parent_is_not_supported(world: World) -> None:
    for parent in (
        world.vmo(options=VmoOptions(resizable=True)),
        clone(world.vmo(), resizable=True),
        AuxVmo(world.system),
    ):
        with pytest.raises(NotSupportedError):
            create_child(parent, SLICE, 0, 0)


def test_a_slice_of_a_slice_is_one_of_the_vmo(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    inner = slice_of(slice_of(root, 2, 4), 1, 2)
    assert (inner.of, shows(inner, shift=3)) == (root, "rr")


def test_a_reference_needs_no_offset_and_no_size(vmo: Vmo) -> None:
    for offset, size in ((P, 0), (0, P)):
        with pytest.raises(InvalidArgsError):
            create_child(vmo, REFERENCE, offset, size)


def test_a_reference_is_not_to_a_slice_and_resizable_only_if_the_parent_is(world: World, vmo: Vmo) -> None:
    with pytest.raises(NotSupportedError):
        reference(slice_of(vmo, 0, 8))
    with pytest.raises(NotSupportedError):
        reference(vmo, resizable=True)
    reference(world.vmo(options=VmoOptions(resizable=True)), resizable=True)
    reference(reference(vmo))


# Anonymous memory


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_all_kinds_of_snapshots_of_anonymous_memory_but_not_of_its_slices(world: World, kind: ChildKind) -> None:
    aux = AuxVmo(world.system, 8 * P, resizable=False)
    snapshot(snapshot(aux, kind=kind), kind=kind)
    with pytest.raises(NotSupportedError):
        create_child(create_child(aux, SLICE, 0, P), kind, 0, P)


@pytest.mark.parametrize("kind", [FULL, REFERENCE])
def test_physical_and_contiguous_memory_have_slices_only(world: World, kind: ChildKind) -> None:
    for memory, error in ((AuxKind.PHYSICAL, NotSupportedError), (AuxKind.CONTIGUOUS, InvalidArgsError)):
        aux = AuxVmo(world.system, 4 * P, memory, resizable=False)
        with pytest.raises(error if kind is FULL else NotSupportedError):
            create_child(aux, kind, 0, 0)
        assert create_child(aux, SLICE, P, P).size_pages == 1


def test_pinned_anonymous_memory_cannot_be_frozen(world: World) -> None:
    aux = world.aux(0, 8)
    aux.pin(0, P)
    with pytest.raises(BadStateError):
        snapshot(aux)
