"""Slices and references: the same memory under another name (zircon-pager 2.12, 5.3)."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.children_harness import P, PagerLike, aux_view, clone, read, reference, shows, slice_of, write, zero
from tests.support.dirty_harness import ack, dirty, modified, states
from vmofs.core.operations import op_range
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoStatistics
from vmofs.status import AccessDeniedError, InvalidArgsError, NotSupportedError, OutOfRangeError, UnavailableError
from vmofs.units import PageRange
from vmofs.vocabulary import AuxKind, ChildKind, VmoOp


def test_whether_pages_may_be_absent_is_known_of_a_root_and_not_of_its_children(world: World) -> None:
    root = world.vmo(4)
    child = slice_of(root, 0, 2)
    seen = [(root.may_lack_pages, child.may_lack_pages)]
    world.supply(root, 0, 3)
    seen.append((root.may_lack_pages, child.may_lack_pages))
    world.supply(root, 3, zero=True)
    seen.append((root.may_lack_pages, child.may_lack_pages))
    assert seen == [(True, True), (True, True), (False, True)]
    assert not world.vmo(0).may_lack_pages


def test_slice_write_is_dirty_on_the_root_in_root_offsets_and_modified(world: World) -> None:
    root = world.trap_vmo()
    view = slice_of(root, 2, 4)
    access = write(world, view, 1, 2)
    assert world.packets() == ["READ(3,2)"]
    world.supply(root, 3, 2)
    assert world.packets() == ["DIRTY(3,2)"]
    ack(world, root, 3, 2)
    assert access.done
    assert (dirty(world, root), modified(world, root), shows(view, shift=2)) == ("{3,2}", True, ".ww.")
    with pytest.raises(InvalidArgsError):
        world.pager.query_dirty_ranges(view, 0, P)


def test_slice_op_zero_is_a_zero_interval_of_the_root(world: World) -> None:
    root = world.trap_vmo()
    world.supply(root, 0, 8)
    zero(world, slice_of(root, 2, 4), 1, 2)
    assert (states(root), dirty(world, root), world.packets()) == ("ccczzccc", "{3,2,Z}", [])


def test_hints_commit_and_pins_through_a_slice_act_on_the_root(world: World) -> None:
    root = world.vmo()
    view = slice_of(root, 2, 4)
    for op in (VmoOp.PREFETCH, VmoOp.COMMIT, VmoOp.ALWAYS_NEED):
        access = world.start(op_range(op, view, P, P))
        assert world.packets() == ["READ(3,1)"]
        world.fail(root, 3)
        assert access.done
    world.supply(root, 3)
    pin = world.start(view.pin(P, P, write=True)).result()
    assert (list(root.pinned), list(root.node.always_needed), states(root)) == ([(3, 4)], [(3, 4)], "...d....")
    pin.unpin()
    world.start(op_range(VmoOp.DONT_NEED, view, 0, P)).result()
    assert list(root.node.unneeded) == [PageRange(2, 3)]
    with pytest.raises(NotSupportedError):
        view.decommit(0, P)


def test_a_slice_ends_where_it_ends(world: World) -> None:
    view = slice_of(world.vmo(), 2, 4)
    for call in (view.read, view.op_zero, view.commit, view.prefetch, view.always_need, view.pin):
        with pytest.raises(OutOfRangeError):
            world.start(call(3 * P, 2 * P)).result()
    with pytest.raises(OutOfRangeError):
        write(world, view, 4).result()
    for at_once in (view.read_nowait, view.dont_need, view.decommit):
        with pytest.raises(OutOfRangeError):
            at_once(3 * P, 2 * P)


def test_a_view_without_write_can_only_be_read(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    view = slice_of(root, 0, 4, no_write=True)
    calls = (view.write(0, b"x"), view.op_zero(0, P), view.commit(0, P), view.set_size(0), view.set_stream_size(0))
    for access in (*calls, view.pin(0, P, write=True)):
        with pytest.raises(AccessDeniedError):
            world.start(access).result()
    alone = create_child(root, ChildKind.REFERENCE, 0, 0, no_write=True)
    with pytest.raises(AccessDeniedError):
        world.start(op_range(VmoOp.ZERO, alone, 0, P)).result()
    assert read(world, view, 0, 4).done


def test_views_of_what_cannot_be_written_to_cannot_be_written_to(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    aux = AuxVmo(world.system, P, resizable=False, no_write=True)
    for parent in (slice_of(root, 0, 4, no_write=True), clone(root, no_write=True), aux):
        view = create_child(create_child(parent, ChildKind.SLICE, 0, P), ChildKind.SLICE, 0, P)
        with pytest.raises(AccessDeniedError):
            world.start(op_range(VmoOp.ZERO, view, 0, P)).result()
    again = clone(slice_of(root, 0, 4, no_write=True), pages=4)
    assert write(world, again, 0).done


def test_a_view_tells_what_it_shows(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 4)
    child = clone(root)
    write(world, child, 3)
    view, whole = slice_of(child, 2, 4), reference(child)
    assert (view.committed_pages, whole.committed_pages, view.source) == (2, 1, root.source)
    assert view.committed(PageRange(0, 4)) == [PageRange(0, 1), PageRange(1, 2)]
    assert [view.state_at(page) for page in (1, 2)] == [PageState.CLEAN, PageState.GAP]
    assert (view.stream_size, whole.stream_size, view.is_slice, whole.is_slice) == (4 * P, 8 * P, True, False)
    assert isinstance(slice_of(root, 0, 1).statistics(), VmoStatistics)


def test_a_write_through_any_name_is_seen_through_all(world: World) -> None:
    root = world.vmo()
    world.supply(root, 0, 8)
    child = clone(root)
    views: list[PagerLike] = [reference(child), slice_of(child, 0, 8), slice_of(reference(child), 0, 8)]
    for page, view in enumerate(views):
        write(world, view, page)
    assert [shows(child), *map(shows, views)] == ["wwwrrrrr"] * 4
    assert shows(root) == "rrrrrrrr"


# Of anonymous memory


def fixed(world: World) -> AuxVmo:
    """Return an aux of eight pages with contents, whose size is fixed."""
    aux = AuxVmo(world.system, 8 * P, resizable=False)
    aux.write_nowait(0, bytes(world.aux(0, 8).read_nowait(0, 8 * P)))
    return aux


def test_a_slice_of_an_aux_is_its_memory(world: World) -> None:
    aux = fixed(world)
    view = aux_view(aux, 2, 4)
    assert shows(view, shift=2) == "rrrr"
    view.write_nowait(P, bytes(P))
    view.op_zero(2 * P, P)
    view.decommit(3 * P, P)
    assert (shows(aux), aux.committed_pages, view.committed_pages) == ("rrr000rr", 6, 2)
    view.commit(2 * P, P)
    view.prefetch(0, 4 * P)
    pin = view.pin(0, P)
    assert (list(aux.pinned), aux.committed_pages) == ([(2, 3)], 7)
    pin.unpin()
    assert (view.statistics().size_bytes, view.kind, view.resizable) == (4 * P, AuxKind.PLAIN, False)


def test_a_slice_of_an_aux_ends_where_it_ends(world: World) -> None:
    view = aux_view(fixed(world), 2, 4)
    assert len(view.read_nowait(3 * P, 2 * P)) == P
    assert view.read_nowait(5 * P, P) == b""
    assert view.write_nowait(9 * P, b"") == 0
    with pytest.raises(UnavailableError):
        view.write_nowait(4 * P - 1, b"xy")
    with pytest.raises(UnavailableError):
        view.set_size(P)
    for call in (view.commit, view.decommit, view.op_zero, view.prefetch, view.pin):
        with pytest.raises(OutOfRangeError):
            call(3 * P, 2 * P)


def test_a_slice_of_an_aux_has_no_more_than_the_aux(world: World) -> None:
    aux = AuxVmo(world.system, 3 * P + 8, resizable=False)
    view = create_child(aux, ChildKind.SLICE, 2 * P, 2 * P)
    assert isinstance(view, AuxView)
    assert (view.size_bytes, view.size_pages) == (P + 8, 2)
    assert view.write_nowait(P, b"the last") == 8
    with pytest.raises(UnavailableError):
        view.write_nowait(P, b"too much.")
    assert (view.read_nowait(P, P), aux.read_nowait(3 * P, P)) == (b"the last", b"the last")
    empty = create_child(view, ChildKind.SLICE, 2 * P, 0)
    assert isinstance(empty, AuxView)
    assert empty.size_bytes == 0


def test_a_reference_to_an_aux_grows_as_it_does(world: World) -> None:
    aux = world.aux(0, 2)
    view = create_child(aux, ChildKind.REFERENCE, 0, 0, resizable=True)
    assert isinstance(view, AuxView)
    view.write_nowait(2 * P, b"more")
    assert (aux.size_bytes, view.size_bytes, view.resizable) == (2 * P + 4, 2 * P + 4, True)
    view.set_size(P)
    assert (shows(aux), view.committed_pages) == ("r", 1)


def test_a_view_of_an_aux_without_write_can_only_be_read(world: World) -> None:
    aux = fixed(world)
    view = create_child(aux, ChildKind.SLICE, 0, P, no_write=True)
    assert isinstance(view, AuxView)
    with pytest.raises(AccessDeniedError):
        view.write_nowait(0, b"x")
    for call in (view.commit, view.decommit, view.op_zero, view.check_can_give):
        with pytest.raises(AccessDeniedError):
            call(0, P)
    with pytest.raises(AccessDeniedError):
        view.set_size(0)
