"""Who pays for pages and ranges: who made them, and when he has left, who keeps them, if he has room."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.children_harness import FULL, MODIFIED, ON_WRITE, P
from vmofs.core.pages.account import SPARE_RANGES, Account
from vmofs.core.pages.pins import MOST_PIECES, Pins
from vmofs.core.vmos import children
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.hints import MOST_RANGES
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerVmo
from vmofs.status import NoMemoryError
from vmofs.units import Key, PageRange
from vmofs.vocabulary import ChildKind


def made(world: World, account: Account | None, pages: int) -> AuxVmo:
    """Return an aux whose pages all have content."""
    aux = AuxVmo(world.system, account=account)
    aux.write_nowait(0, b"a" * pages * P)
    return aux


def vmo_of(world: World, account: Account, pages: int = 8, *, resizable: bool = False) -> PagerVmo:
    return world.pager.create_vmo(world.port, Key(5), pages * P, VmoOptions(resizable=resizable), account)


def test_pages_are_counted_where_they_come_and_go(world: World) -> None:
    account = Account("uid 7", limit_pages=4)
    aux = made(world, account, 3)
    assert account.pages == 3
    with pytest.raises(NoMemoryError, match=f"the files of uid 7 may hold no more than {4 * P} bytes of memory"):
        aux.write_nowait(3 * P, b"b" * 2 * P)
    assert (account.pages, aux.size_bytes, account.refused["memory"]) == (3, 3 * P, 1)
    aux.decommit(0, P)
    aux.close()
    assert account.pages == 0


def test_what_moves_to_another_payer_needs_room_there_and_nothing_changes_without(world: World) -> None:
    giver, taker = Account(), Account("uid 8", limit_pages=2)
    aux, vmo = made(world, giver, 3), vmo_of(world, taker)
    with pytest.raises(NoMemoryError, match="uid 8"):
        world.pager.supply_pages(vmo, 0, 3 * P, aux, 0)
    assert (giver.pages, taker.pages) == (3, 0)
    world.pager.supply_pages(vmo, 0, 2 * P, aux, 0)
    assert (giver.pages, taker.pages) == (1, 2)
    with pytest.raises(NoMemoryError, match="uid 8"):
        world.pager.supply_bytes(vmo, 4 * P, b"x" * P)


def test_a_file_that_is_given_away_is_paid_for_by_its_new_owner(world: World) -> None:
    one, two = Account(), Account()
    aux, vmo = made(world, one, 2), vmo_of(world, one)
    world.start(vmo.op_zero(0, P)).result()
    child = create_child(vmo, ON_WRITE, 0, 8 * P, account=one)
    view = create_child(aux, ChildKind.REFERENCE, 0, 0, account=one)
    assert isinstance(child, CloneVmo)
    for given in (aux, vmo, child, view):
        given.charge_to(two)
    assert (one.pages, one.ranges, two.pages, two.ranges) == (0, 0, 2, 1)
    aux.charge_to(None)
    view.close()
    view.charge_to(one)  # has no window any more
    assert two.pages == 0


def test_who_keeps_an_aux_by_a_window_pays_for_it_once_its_maker_has_left(world: World) -> None:
    maker, keeper, poor = Account(), Account(), Account(limit_pages=2)
    for account in (keeper, poor):
        aux = made(world, maker, 3)
        window = create_child(aux, ChildKind.SLICE, 0, P, account=account) if not aux.resizable else None
        window = create_child(aux, ChildKind.REFERENCE, 0, 0, account=account) if window is None else window
        aux.close()
        assert (maker.pages, account.pages) == ((0, 3) if account is keeper else (3, 0))
        window.close()
        assert (maker.pages, account.pages) == (0, 0)


def test_who_keeps_it_longest_pays_in_the_end(world: World) -> None:
    maker, first, last = Account(), Account(), Account()
    aux = made(world, maker, 3)
    windows = [create_child(aux, ChildKind.REFERENCE, 0, 0, account=account) for account in (first, maker, last)]
    aux.close()
    assert maker.pages == 3  # he has a window on it, too
    windows[1].close()
    assert first.pages == 3
    windows[0].close()
    assert last.pages == 3
    windows[2].close()
    assert (maker.pages, first.pages, last.pages) == (0, 0, 0)


@pytest.mark.parametrize("room", [0, 2])
def test_what_several_snapshots_share_goes_to_who_has_room(world: World, room: int) -> None:
    """Without it the hidden pages stay where they were made, and are freed with the last who sees them."""
    maker, keeper = Account(), Account(limit_pages=room)
    aux = made(world, maker, 3)
    snapshot = create_child(aux, FULL, 0, 3 * P, account=keeper)
    aux.close()
    world.system.check()
    assert (maker.pages, keeper.pages) == ((0, 3) if not room else (3, 0))
    assert isinstance(snapshot, AuxVmo)
    assert snapshot.read_nowait(0, 3) == b"aaa"
    if room:
        with pytest.raises(NoMemoryError):
            snapshot.write_nowait(0, b"b" * 3 * P)
    snapshot.close()
    assert (maker.pages, keeper.pages) == (0, 0)
    assert world.system.statistics().objects == 0


@pytest.mark.parametrize("payers", [(None, Account()), (Account(), None), (Account(), Account())])
def test_what_a_snapshot_kept_is_paid_for_by_its_account_if_it_has_one(
    world: World, payers: tuple[Account | None, Account | None]
) -> None:
    maker, keeper = payers
    aux = made(world, maker, 3)
    snapshot = create_child(aux, FULL, 0, 3 * P, account=keeper)
    aux.close()
    assert [account.pages for account in payers if account is not None] == [3 * (it is keeper) for it in payers if it]
    snapshot.close()
    assert not any(account.pages for account in payers if account is not None)


def test_a_root_is_paid_for_by_who_has_a_clone_of_it(world: World) -> None:
    maker, keeper = Account(), Account()
    vmo = vmo_of(world, maker)
    world.supply(vmo, 0, 2)
    child = create_child(vmo, MODIFIED, 0, 8 * P, account=keeper)
    vmo.close()
    assert (maker.pages, keeper.pages) == (0, 2)
    child.close()
    assert keeper.pages == 0


def test_ranges_that_occupy_nothing_are_counted_and_bounded(world: World) -> None:
    account = Account("uid 9", limit_ranges=SPARE_RANGES + 3)
    vmo = vmo_of(world, account, 64)
    for page in (1, 3, 5, 7):
        world.start(vmo.op_zero(page * P, P)).result()
    assert account.ranges == 4
    with pytest.raises(NoMemoryError, match=f"uid 9 may consist of no more than {SPARE_RANGES + 3} ranges"):
        world.start(vmo.op_zero(9 * P, P)).result()
    assert account.refused["ranges"] == 1
    vmo.close()
    assert account.ranges == 0


def test_hints_are_counted_and_bounded(world: World) -> None:
    account = Account()
    vmo = vmo_of(world, account, 4 * MOST_RANGES)
    world.supply(vmo, 0, 4 * MOST_RANGES, zero=True)
    for number in range(MOST_RANGES):
        if number % 2:
            vmo.dont_need(4 * number * P, P)
        else:
            world.start(vmo.always_need(4 * number * P, P)).result()
    assert account.ranges == MOST_RANGES + 1
    with pytest.raises(NoMemoryError, match="hints were given"):
        vmo.dont_need(2 * P, P)
    with pytest.raises(NoMemoryError, match="hints were given"):
        world.start(vmo.always_need(2 * P, P)).result()
    vmo.close()
    assert account.ranges == 0


def test_children_and_generations_are_bounded_for_each_payer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "MOST_CHILDREN", 3)
    monkeypatch.setattr(children, "MOST_GENERATIONS", 4)
    one, two = Account("uid 1"), Account("uid 2")
    vmo = vmo_of(world, one)
    world.supply(vmo, 0, 8)
    for kind in (ON_WRITE, ON_WRITE, ChildKind.SLICE):
        create_child(vmo, kind, 0, P, account=one)
    with pytest.raises(NoMemoryError, match="uid 1 has 3 children of this memory"):
        create_child(vmo, ChildKind.REFERENCE, 0, 0, account=one)
    child = create_child(vmo, ON_WRITE, 0, 8 * P, account=two)
    for _ in range(3):
        assert isinstance(child, CloneVmo)
        world.start(child.write(0, b"x")).result()
        child = create_child(child, ON_WRITE, 0, 8 * P, account=two)
    assert isinstance(child, CloneVmo)
    world.start(child.write(0, b"x")).result()
    with pytest.raises(NoMemoryError, match="generations"):
        create_child(child, ON_WRITE, 0, 8 * P, account=two)


def test_an_object_is_pinned_in_no_more_pieces_than_can_be_looked_at() -> None:
    pins = Pins()
    held = [pins.add(PageRange(2 * page, 2 * page + 1)) for page in range(MOST_PIECES)]
    with pytest.raises(NoMemoryError, match="pieces"):
        pins.add(PageRange(0, 2 * MOST_PIECES))
    held.pop().unpin()
    whole = pins.add(PageRange(0, 2 * MOST_PIECES))
    pins.check()
    whole.unpin()
    for pin in held:
        pin.unpin()
    pins.check()
    assert not pins.pages


def test_very_many_pins_of_one_page_are_few_pieces() -> None:
    pins = Pins()
    held = [pins.add(PageRange(0, 1)) for _ in range(2 * MOST_PIECES)]
    for pin in held:
        pin.unpin()
    assert not pins.pages
