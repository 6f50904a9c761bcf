"""Marked pages: the pager is told when a program first reads one. Ours, not Zircon's."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from vmofs.core.pages.account import Account
from vmofs.core.requests import page_source
from vmofs.core.requests.port import Port
from vmofs.core.vmos import marks
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.status import BadStateError, InvalidArgsError, NoMemoryError, OutOfRangeError
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import ChildKind

P = PAGE_SIZE


def marked(world: World, *pages: int, of: int = 8) -> PagerVmo:
    """Return a VMO whose first half is present, with marks."""
    vmo = world.vmo(of)
    world.supply(vmo, 0, of // 2)
    for page in pages:
        world.pager.mark(vmo, page * P, P)
    return vmo


def test_the_first_read_of_a_marked_page_is_told_once(world: World) -> None:
    vmo = marked(world, 2)
    vmo.touch(PageRange(0, 2))
    assert world.packets() == []
    vmo.touch(PageRange(1, 4))
    assert world.packets() == ["TOUCH(2,1)"]
    vmo.touch(PageRange(1, 4))
    assert world.packets() == []
    assert vmo.source.marked is None


def test_each_page_of_a_marked_range_is_told_of(world: World) -> None:
    vmo = marked(world, 1, 2, 3)
    vmo.touch(PageRange(2, 3))
    vmo.touch(PageRange(0, 4))
    assert world.packets() == ["TOUCH(2,1)", "TOUCH(1,1)", "TOUCH(3,1)"]


def test_of_what_nobody_takes_only_so_much_is_kept(world: World) -> None:
    """Each took 260 bytes of the daemon, for ever, and was counted for nobody."""
    most = page_source.MOST_TOUCHES
    pages = most + 10
    vmo, other = marked(world, of=2 * pages), marked(world, 0)
    for _ in range(2):
        world.pager.mark(vmo, 0, pages * P)
        for page in range(pages):
            vmo.touch(PageRange(page, page + 1))
        other.touch(PageRange(0, 1))
    assert world.pager.tally.queued_touches == most
    assert len(world.packets()) == most
    assert world.pager.tally.queued_touches == 0
    for taken in (False, True):
        world.pager.mark(vmo, 0, 2 * P)
        vmo.touch(PageRange(0, 2))
        assert world.pager.tally.queued_touches == 1
        if taken:
            assert world.packets() == ["TOUCH(0,2)"]
        else:
            vmo.source.withdraw_all()
        assert world.pager.tally.queued_touches == 0


def test_of_an_absent_page_the_request_tells(world: World) -> None:
    vmo = marked(world, 3, 4)
    vmo.touch(PageRange(3, 6))
    world.start_read(vmo, 3, 3)
    assert world.packets() == ["TOUCH(3,1)", "READ(4,2)"]
    assert vmo.source.marked is None


def test_a_page_that_is_supplied_after_it_was_marked_is_marked(world: World) -> None:
    vmo = marked(world, 5)
    world.supply(vmo, 4, 4)
    assert vmo.unmarked(PageRange(0, 8)) == [PageRange(0, 5), PageRange(6, 8)]
    vmo.touch(PageRange(5, 6))
    assert world.packets() == ["TOUCH(5,1)"]
    assert vmo.unmarked(PageRange(0, 8)) == [PageRange(0, 8)]


def test_a_touch_is_no_request_and_needs_no_answer(world: World) -> None:
    vmo = marked(world, 0)
    vmo.touch(PageRange(0, 1))
    assert world.packets() == ["TOUCH(0,1)"]
    assert not world.system.requests
    assert not world.port.delivered()
    assert world.port.requeue_delivered() == 0


def test_what_is_marked_is_stale_so_that_the_next_read_comes(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 4)
    world.system.take_stale()
    world.pager.mark(vmo, 2 * P, 4 * P)
    assert world.system.take_stale()[vmo] == [PageRange(2, 4)]


@pytest.mark.parametrize("kind", [ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, ChildKind.SLICE])
def test_a_read_by_way_of_a_child_is_told_in_the_pages_of_the_root(world: World, kind: ChildKind) -> None:
    vmo = marked(world, 2)
    child = create_child(vmo, kind, P, 4 * P)
    assert isinstance(child, CloneVmo | PagerView)
    if isinstance(child, CloneVmo):
        world.start(child.write(0, b"own"))
    assert child.unmarked(PageRange(0, 4)) == [PageRange(0, 1), PageRange(2, 3)]
    child.touch(PageRange(0, 2))
    assert world.packets() == ["TOUCH(2,1)"]
    child.touch(PageRange(0, 2))
    assert child.unmarked(PageRange(0, 4))[0].start == 0
    assert world.packets() == []
    child.close()


def test_a_page_that_a_clone_has_itself_is_not_the_one_that_is_marked(world: World) -> None:
    vmo = marked(world, 1)
    clone = create_child(vmo, ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, 0, 4 * P)
    assert isinstance(clone, CloneVmo)
    world.start(clone.write(P, b"own"))
    assert clone.unmarked(PageRange(1, 2)) == [PageRange(1, 2)]
    clone.touch(PageRange(1, 2))
    assert world.packets() == []
    clone.close()


def test_without_a_pager_nobody_is_told(world: World) -> None:
    closed, detached = marked(world, 2), marked(world, 3)
    world.pager.detach_vmo(detached)
    world.pager.close()
    for vmo in (closed, detached):
        assert vmo.source.marked is None
        vmo.touch(PageRange(0, 4))
    assert world.packets() == []


def test_marks_that_are_cut_off_are_gone(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    world.pager.mark(vmo, 4 * P, 2 * P)
    world.start(vmo.set_size(5 * P))
    assert list(vmo.source.marked or ()) == [PageRange(4, 5)]
    world.start(vmo.set_size(4 * P))
    assert vmo.source.marked is None


def test_mark_is_refused_in_the_order_of_evict(world: World) -> None:
    vmo = world.vmo()
    with pytest.raises(InvalidArgsError):
        world.pager.mark(world.aux(0, 1), 0, P)
    with pytest.raises(OutOfRangeError):
        world.pager.mark(vmo, 8 * P, P)
    world.pager.detach_vmo(vmo)
    with pytest.raises(BadStateError):
        world.pager.mark(vmo, 0, P)


def test_marks_are_bounded_and_paid_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST_RANGES", 3)
    account = Account("somebody")
    vmo = world.pager.create_vmo(Port(world.system), Key(1), 16 * P, account=account)
    for page in (0, 2, 4):
        world.pager.mark(vmo, page * P, P)
    assert account.ranges == 3
    with pytest.raises(NoMemoryError, match="marks were made in 3 ranges"):
        world.pager.mark(vmo, 6 * P, P)
    vmo.touch(PageRange(0, 3))
    assert account.ranges == 1
    world.pager.close_vmo(vmo)
    assert account.ranges == 0


def test_an_empty_range_marks_nothing(world: World) -> None:
    vmo = world.vmo()
    world.pager.mark(vmo, 0, 0)
    assert vmo.source.marked is None
    assert vmo.unmarked(PageRange(0, 8)) == []


def test_a_vmo_of_very_many_pieces_is_marked_in_slices(world: World) -> None:
    vmo = world.vmo(2000)
    for page in range(0, 2000, 2):
        world.supply(vmo, page)
    steps = world.pager.mark_steps(vmo, 0, 2000 * P)
    assert len(list(steps)) > 0
    assert vmo.unmarked(PageRange(0, 2000)) == []
