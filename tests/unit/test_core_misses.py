"""The short path of a miss: a record instead of a request, until somebody looks at the requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.oracle.short_read import ShortRead, short_read
from tests.oracle.world import KEY, World
from vmofs.core.pages.account import Account
from vmofs.core.requests.access import Access
from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import MOST_HANDED, MOST_MISSING, Port
from vmofs.core.requests.request import PageRequest, SourceState, Waiter
from vmofs.core.requests.system import System
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, NoMemoryError, Status, TimedOutError, VmoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PacketCommand, PagerOp

LANE = "lane"


def miss(world: World, vmo: PagerVmo, page: int) -> ShortRead:
    """Start a read on the short path, which must be possible."""
    started = short_read(vmo, page * PAGE_SIZE, LANE, world.now)
    assert started is not None
    return started[0]


def data_of(page: int) -> bytes:
    """Return what belongs into a page."""
    return pattern.make_pages(KEY, PageRange(page, page + 1))


def answer(world: World, vmo: PagerVmo, page: int) -> list[ShortRead] | None:
    """Supply a page on the short path; its readers get the bytes."""
    readers = world.pager.supply_page(vmo, page * PAGE_SIZE, data_of(page))
    for reader in readers or ():
        assert isinstance(reader, ShortRead)
        reader.answer(data_of(page))
    return readers  # type: ignore[return-value] # all of them are ours


def test_a_page_that_is_missed_is_asked_for_once_and_supplied_to_all_who_read_it(world: World) -> None:
    vmo = world.vmo()
    started = [short_read(vmo, 3 * PAGE_SIZE, LANE, world.now) for _ in range(2)]
    assert [None if it is None else it[1] for it in started] == [True, False]
    readers = answer(world, vmo, 3)
    assert readers == [it[0] for it in started if it is not None]
    assert [reader.result() for reader in readers] == [data_of(3)] * 2
    assert vmo.read_nowait(3 * PAGE_SIZE, PAGE_SIZE) == data_of(3)
    assert world.states(vmo) == "...c...."
    counts = world.pager.statistics()
    assert (counts.read_requests_total, counts.supply_calls_total, counts.pages_supplied_total) == (1, 1, 1)
    assert (counts.requests_outstanding, world.port.statistics().packets_total) == (0, 1)


def test_a_miss_is_outstanding_and_delivered_for_who_asks(world: World) -> None:
    world.now = 4.0
    vmo = world.vmo()
    miss(world, vmo, 3)
    assert world.port.misses
    assert world.pager.statistics().requests_outstanding == 1
    (request,) = world.pager.pending()
    assert (request.range, request.command, request.raised_at) == (PageRange(3, 4), PacketCommand.READ, 4.0)
    assert (request.deliveries, request.delivered_at, world.port.delivered()) == (1, 4.0, {request: LANE})
    assert not world.port
    assert world.system.statistics().waiters == 1


def test_a_read_that_was_promoted_is_answered_as_any(world: World) -> None:
    vmo = world.vmo()
    first, second = miss(world, vmo, 3), miss(world, vmo, 3)
    world.port.promote()
    assert answer(world, vmo, 3) is None
    world.supply(vmo, 2, 3)
    assert (first.result(), second.result()) == (data_of(3), data_of(3))
    assert not world.system.requests


def test_a_reader_who_leaves_leaves_the_others(world: World) -> None:
    vmo = world.vmo()
    first, second = miss(world, vmo, 3), miss(world, vmo, 3)
    first.cancel()
    assert first.done
    (request,) = world.system.requests
    second.cancel()
    assert not world.system.requests
    assert not world.port.delivered()
    assert request.primary is None


# Ends of a miss that are no supply of its page


def detach(world: World, vmo: PagerVmo) -> None:
    """Detach it."""
    world.pager.detach_vmo(vmo)


def close(world: World, vmo: PagerVmo) -> None:
    """Close the VMO."""
    del world
    vmo.close()


def close_pager(world: World, vmo: PagerVmo) -> None:
    """Close the pager."""
    del vmo
    world.pager.close()


def fail(world: World, vmo: PagerVmo) -> None:
    """Fail some pages."""
    world.fail(vmo, 2, 4)


def expire(world: World, vmo: PagerVmo) -> None:
    """Let the deadline come."""
    del vmo
    world.system.expire(world.now + 1)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (detach, BadStateError),
        (close, BadStateError),
        (close_pager, BadStateError),
        (fail, IoError),
        (expire, TimedOutError),
    ],
)
def test_a_miss_fails_as_a_request_does(
    world: World, end: Callable[[World, PagerVmo], None], error: type[VmoError]
) -> None:
    vmo = world.vmo()
    readers = [miss(world, vmo, 3), miss(world, vmo, 3)]
    end(world, vmo)
    world.run()
    for reader in readers:
        with pytest.raises(error):
            reader.result()
    assert not world.system.requests


def test_a_miss_that_is_cut_off_is_out_of_range(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    reader = miss(world, vmo, 3)
    world.start(vmo.set_size(PAGE_SIZE))
    world.run()
    with pytest.raises(VmoError, match="range"):
        reader.result()


def test_a_miss_whose_page_is_zeroed_reads_zeros(world: World) -> None:
    vmo = world.vmo()
    reader, other = miss(world, vmo, 3), miss(world, vmo, 5)
    world.start(vmo.op_zero(3 * PAGE_SIZE, PAGE_SIZE))
    world.run()
    assert reader.result() == bytes(PAGE_SIZE)
    assert (other.done, len(world.port.misses)) == (False, 1)
    other.cancel()


# Where the short path is not taken


def test_no_short_path_but_for_a_whole_page_of_the_content(world: World) -> None:
    vmo = world.vmo(size=2 * PAGE_SIZE + 8)
    assert short_read(vmo, 8, LANE, world.now) is None
    assert short_read(vmo, 2 * PAGE_SIZE, LANE, world.now) is None
    assert not world.port.misses


def test_no_short_path_for_a_page_that_a_request_covers(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 2, 2)
    world.dequeue()
    assert short_read(vmo, 3 * PAGE_SIZE, LANE, world.now) is None
    assert short_read(vmo, 4 * PAGE_SIZE, LANE, world.now) is not None


def test_no_short_path_before_what_is_queued_or_comes_back(world: World) -> None:
    vmo, other = world.vmo(), world.vmo(key=KEY + pattern.KEY_STEP)
    world.start_read(other, 0)
    assert short_read(vmo, 0, LANE, world.now) is None
    world.dequeue("one")
    world.port.requeue_delivered("one")
    assert short_read(vmo, 0, LANE, world.now) is None
    world.dequeue("two")
    assert short_read(vmo, 0, LANE, world.now) is not None


def test_no_short_path_for_more_readers_than_are_quickly_made_requests_of(world: World) -> None:
    vmo = world.vmo(MOST_MISSING + 1)
    misses = [miss(world, vmo, page % 100) for page in range(MOST_MISSING)]
    assert short_read(vmo, 0, LANE, world.now) is None
    assert short_read(vmo, MOST_MISSING * PAGE_SIZE, LANE, world.now) is None
    assert answer(world, vmo, 0) == misses[::100]
    assert short_read(vmo, MOST_MISSING * PAGE_SIZE, LANE, world.now) is not None


def test_no_short_path_beside_many_requests_of_the_port(world: World) -> None:
    vmo = world.vmo(MOST_HANDED + 1)
    for page in range(MOST_HANDED):
        world.start_read(vmo, page)
        world.dequeue(LANE)
    assert short_read(vmo, MOST_HANDED * PAGE_SIZE, LANE, world.now) is None
    world.supply(vmo, 0)
    assert short_read(vmo, MOST_HANDED * PAGE_SIZE, LANE, world.now) is not None


def test_no_short_path_without_a_pager_or_a_port(world: World) -> None:
    vmo, other = world.vmo(), world.pager.create_vmo(Port(world.system), Key(1), PAGE_SIZE)
    world.pager.detach_vmo(vmo)
    assert short_read(vmo, 0, LANE, world.now) is None
    other.source.port.close()
    assert short_read(other, 0, LANE, world.now) is None


def test_no_short_answer_but_of_a_miss_with_its_whole_page(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    reader = miss(world, vmo, 3)
    supply = partial(world.pager.supply_page, vmo)
    assert supply(4 * PAGE_SIZE, data_of(4)) is None
    assert supply(3 * PAGE_SIZE + 8, data_of(3)) is None
    assert supply(3 * PAGE_SIZE, data_of(3)[:-8]) is None
    assert type(world.pager)(world.system).supply_page(vmo, 3 * PAGE_SIZE, data_of(3)) is None
    assert not reader.done
    assert world.states(vmo) == "........"
    reader.cancel()


def test_a_page_of_which_a_part_is_cut_off_is_a_request_first(world: World) -> None:
    vmo = world.vmo(options=VmoOptions(resizable=True))
    reader = miss(world, vmo, 3)
    world.start(vmo.set_size(3 * PAGE_SIZE + 8))
    assert answer(world, vmo, 3) is None
    world.pager.supply_bytes(vmo, 3 * PAGE_SIZE, data_of(3))
    world.run()
    assert reader.result() == data_of(3)[:8] + bytes(PAGE_SIZE - 8)


def test_no_short_answer_while_a_vmo_is_being_detached(world: World) -> None:
    vmo = world.vmo()
    reader = miss(world, vmo, 3)
    vmo.source.state = SourceState.DETACHED  # as ``detach`` does, which fails the requests next, in slices
    assert world.pager.supply_page(vmo, 3 * PAGE_SIZE, data_of(3)) is None
    vmo.source.fail_all(Status.BAD_STATE)
    world.run()
    assert reader.done


def test_without_memory_a_miss_stays_as_it_was() -> None:
    world = World()
    account = Account("somebody", limit_pages=1)
    vmo = world.pager.create_vmo(world.port, Key(KEY), 2 * PAGE_SIZE, account=account)
    first, second = miss(world, vmo, 0), miss(world, vmo, 1)
    assert answer(world, vmo, 0) == [first]
    with pytest.raises(NoMemoryError):
        world.pager.supply_page(vmo, PAGE_SIZE, data_of(1))
    assert (second.done, world.pager.statistics().requests_outstanding) == (False, 1)
    world.check()
    second.cancel()


def test_a_page_that_a_miss_brought_is_evicted_and_counted_as_any() -> None:
    world = World(limit_pages=1)
    vmo = world.vmo()
    for page in (0, 1, 0):
        miss(world, vmo, page)
        assert answer(world, vmo, page)
        world.check()
    assert world.states(vmo) == "c......."
    assert world.system.eviction is not None
    assert world.system.eviction.statistics().refaulted_pages_total == 1


@pytest.mark.parametrize(("pages", "is_promoted"), [(PageRange(0, 3), False), (PageRange(3, 4), True)])
def test_who_must_know_the_readers_of_some_pages_makes_accesses_of_them(
    world: World, pages: PageRange, is_promoted: bool
) -> None:
    vmo = world.vmo()
    reader, other = miss(world, vmo, 3), miss(world, vmo, 6)
    vmo.promote(pages)
    assert (reader.access is not None, other.access is not None) == (is_promoted, is_promoted)
    reader.cancel()
    other.cancel()
    vmo.promote()


# What is kept with the source


def test_a_miss_that_is_failed_counts_as_a_failed_request(world: World) -> None:
    vmo = world.vmo()
    miss(world, vmo, 3)
    world.pager.op_range(PagerOp.FAIL, vmo, 2 * PAGE_SIZE, 4 * PAGE_SIZE, Status.IO, "gone")
    assert vmo.source.failed == (1, Status.IO, PageRange(3, 4), "gone")
    miss(world, vmo, 4)
    world.system.expire(world.now + 1)
    assert vmo.source.failed == (2, Status.TIMED_OUT, PageRange(4, 5), "")


def test_a_touch_goes_before_the_misses_that_come_after_it(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    world.pager.mark(vmo, 0, PAGE_SIZE)
    first = miss(world, vmo, 3)
    vmo.touch(PageRange(0, 1))
    assert first.access is None
    assert short_read(vmo, 4 * PAGE_SIZE, LANE, world.now) is None
    assert world.packets() == ["TOUCH(0,1)"]
    second = miss(world, vmo, 4)
    assert answer(world, vmo, 3) == [first]
    assert answer(world, vmo, 4) == [second]
    assert not world.port.delivered()


def test_a_mark_on_a_missed_page_stays_for_the_next_reader(world: World) -> None:
    vmo = world.vmo()
    read = miss(world, vmo, 3)
    world.pager.mark(vmo, 3 * PAGE_SIZE, PAGE_SIZE)
    assert answer(world, vmo, 3) == [read]
    vmo.touch(PageRange(3, 4))
    assert world.packets() == ["TOUCH(3,1)"]


# The order of requests


def test_requests_are_in_the_order_in_which_they_were_raised_whichever_way(world: World) -> None:
    vmos = [world.pager.create_vmo(Port(world.system), Key(KEY), 8 * PAGE_SIZE) for _ in range(2)]
    raised = []
    for world.now, (number, page) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]):
        vmo = vmos[number]
        raised.append((vmo.source, page))
        if (number, page) == (1, 1):
            world.start_read(vmo, page)
        else:
            miss(world, vmo, page)
    assert [(request.source, request.range.start) for request in world.system.requests] == raised
    assert [request.source for request in world.system.expire(2.5)] == [source for source, _ in raised[:3]]


def test_what_a_worker_had_comes_again_in_the_order_of_delivery(world: World) -> None:
    vmo, other = world.vmo(), world.vmo(key=KEY + pattern.KEY_STEP)
    world.start_read(vmo, 0)
    world.dequeue(LANE)
    miss(world, vmo, 1)
    miss(world, other, 0)
    world.start_read(vmo, 2)
    world.dequeue(LANE)
    assert world.port.load(LANE) == 4
    assert world.port.requeue_delivered(LANE) == 4
    assert world.packets() == ["READ(0,1)", "READ(1,1)", "READ(0,1)", "READ(2,1)"]


def test_a_lane_that_answers_a_miss_does_not_stall(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0)
    world.dequeue(LANE)
    world.port.redeliver(next(iter(world.port.delivered())), "another", world.now)
    assert world.port.is_stalled(LANE)
    miss(world, vmo, 1)
    answer(world, vmo, 1)
    assert not world.port.is_stalled(LANE)


def test_of_many_misses_those_of_a_supply_are_found(world: World) -> None:
    vmo, other = world.vmo(64), world.vmo(64, key=KEY + pattern.KEY_STEP)
    misses = {page: miss(world, vmo, page) for page in range(0, 64, 2)}
    others = [miss(world, other, page) for page in range(64)]
    for start, pages in ((0, 4), (60, 4), (4, 56)):
        world.supply(vmo, start, pages)
        assert [page for page, read in misses.items() if read.done] == [
            page for page in misses if vmo.read_nowait(page * PAGE_SIZE, PAGE_SIZE)
        ]
    assert all(read.done for read in misses.values())
    assert not any(read.done for read in others)
    for read in others:
        read.cancel()


# The doors: everything that an object of `requests` can be asked, and whether misses become requests by it

PROMOTES = "promotes"
KEEPS = "keeps"

DOORS: dict[type, dict[str, tuple[str, Callable[[World, PagerVmo, PageRequest], object]]]] = {
    PageSource: {
        "check": (KEEPS, lambda _, vmo, __: vmo.source.check()),
        "check_attached": (KEEPS, lambda _, vmo, __: vmo.source.check_attached()),
        "count": (KEEPS, lambda _, vmo, __: vmo.source.count(PacketCommand.COMPLETE)),
        "fail_all": (PROMOTES, lambda _, vmo, __: vmo.source.fail_all(Status.IO)),
        "fail_request": (KEEPS, lambda _, __, request: request.source.fail_request(request, Status.IO)),
        "fail_some": (PROMOTES, lambda _, vmo, __: vmo.source.fail_some(Status.IO)),
        "has_packet": (KEEPS, lambda _, vmo, __: vmo.source.has_packet()),
        "head_packet": (KEEPS, lambda _, vmo, __: _with_packet(vmo).head_packet()),
        "is_asked": (KEEPS, lambda _, vmo, __: vmo.source.is_asked(0)),
        "is_outstanding": (KEEPS, lambda _, vmo, request: vmo.source.is_outstanding(request)),
        "is_queued": (KEEPS, lambda _, vmo, request: vmo.source.is_queued(request)),
        "leave": (KEEPS, lambda _, __, request: request.source.leave(request.waiters()[0])),
        "outstanding": (PROMOTES, lambda _, vmo, __: vmo.source.outstanding(PacketCommand.READ)),
        "outstanding_count": (KEEPS, lambda _, vmo, __: vmo.source.outstanding_count),
        "pop_packet": (KEEPS, lambda _, vmo, __: _with_packet(vmo).pop_packet()),
        "promote": (KEEPS, lambda *_: None),  # for the port
        "resolve": (KEEPS, lambda _, vmo, __: vmo.source.resolve(PacketCommand.DIRTY, PageRange(0, 8))),
        "send_note": (KEEPS, lambda _, vmo, __: vmo.source.send_note(PacketCommand.TOUCH, PageRange(0, 1))),
        "statistics": (PROMOTES, lambda _, vmo, __: vmo.source.statistics()),
        "wait": (PROMOTES, lambda _, vmo, __: vmo.source.wait(_waiter(), PacketCommand.READ, 0.0)),
        "withdraw_all": (KEEPS, lambda _, vmo, __: vmo.source.withdraw_all()),
    },
    Port: {
        "cancel_key": (KEEPS, lambda world, _, __: world.port.cancel_key(Key(1))),
        "check": (KEEPS, lambda world, _, __: world.port.check()),
        "check_source": (KEEPS, lambda world, vmo, __: world.port.check_source(vmo.source)),
        "close": (PROMOTES, lambda world, _, __: world.port.close()),
        "delivered": (PROMOTES, lambda world, _, __: world.port.delivered()),
        "dequeue": (PROMOTES, lambda world, vmo, __: world.start_read(vmo, 0) and world.port.dequeue()),
        "end_miss": (KEEPS, lambda world, vmo, __: world.port.end_miss(vmo.source, 4)),
        "forget": (KEEPS, lambda world, _, request: world.port.forget(request)),
        "is_queued": (KEEPS, lambda world, _, request: world.port.is_queued(request)),
        "is_stalled": (KEEPS, lambda world, _, __: world.port.is_stalled(LANE)),
        "load": (PROMOTES, lambda world, _, __: world.port.load(LANE)),
        "miss": (KEEPS, lambda world, vmo, __: miss(world, vmo, 5)),
        "missed": (KEEPS, lambda world, vmo, __: world.port.missed(vmo.source, PageRange(0, 8))),
        "oldest": (KEEPS, lambda world, _, __: world.port.oldest()),
        "peek": (KEEPS, lambda world, _, __: world.port.peek()),
        "promote": (PROMOTES, lambda world, _, __: world.port.promote()),
        "promote_within": (KEEPS, lambda world, vmo, __: world.port.promote_within(vmo.source, PageRange(0, 2))),
        "put": (KEEPS, lambda world, vmo, __: world.port.put(vmo.source)),
        "redeliver": (PROMOTES, lambda world, _, request: world.port.redeliver(request, LANE, 0.0)),
        "requeue_delivered": (PROMOTES, lambda world, _, __: world.port.requeue_delivered("another")),
        "statistics": (PROMOTES, lambda world, _, __: world.port.statistics()),
        "take": (PROMOTES, lambda world, _, __: world.port.requeue_delivered(1) and world.port.take(2, 0.0)),
        "withdraw": (KEEPS, lambda world, vmo, __: world.port.withdraw(vmo.source)),
    },
    System: {
        "add_promoted": (KEEPS, lambda *_: None),  # for the source
        "bury": (KEEPS, lambda *_: None),
        "bury_some": (KEEPS, lambda *_: None),
        "check": (KEEPS, lambda world, _, __: world.system.check()),
        "expire": (PROMOTES, lambda world, _, __: world.system.expire(0.0)),
        "forget_stale": (KEEPS, lambda *_: None),
        "mark_stale": (KEEPS, lambda *_: None),
        "promote": (PROMOTES, lambda world, _, __: world.system.promote()),
        "reclaim": (KEEPS, lambda world, _, __: world.system.reclaim(1)),
        "register": (KEEPS, lambda *_: None),
        "requests": (PROMOTES, lambda world, _, __: world.system.requests),
        "run_ready": (KEEPS, lambda world, _, __: world.system.run_ready(0.0)),
        "statistics": (PROMOTES, lambda world, _, __: world.system.statistics()),
        "take_ports": (KEEPS, lambda world, _, __: world.system.take_ports()),
        "take_stale": (KEEPS, lambda world, _, __: world.system.take_stale()),
        "unregister": (KEEPS, lambda *_: None),
        "waiters": (PROMOTES, lambda world, _, __: world.system.waiters),
    },
}


def _with_packet(vmo: PagerVmo) -> PageSource:
    vmo.source.send_note(PacketCommand.COMPLETE)
    return vmo.source


def _waiter() -> Waiter:
    return Waiter(Access(iter(())), PageRange(0, 1), 0)  # type: ignore[arg-type] # it is never woken


@pytest.mark.parametrize("owner", DOORS)
def test_every_door_is_known(owner: type) -> None:
    has = {
        name
        for name, it in vars(owner).items()
        if not name.startswith("_") and (callable(it) or isinstance(it, property))
    }
    assert has == DOORS[owner].keys()


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in DOORS.items() for name in names])
def test_misses_become_requests_by_every_door_through_which_they_would_be_seen(owner: type, name: str) -> None:
    world = World()
    vmo, other = world.vmo(), world.vmo(key=KEY + pattern.KEY_STEP)
    world.start_read(other, 0)
    world.port.take(1, 0.0)
    (request,) = world.system.requests
    read, second = miss(world, vmo, 3), miss(world, vmo, 4)
    expected, use = DOORS[owner][name]
    use(world, vmo, request)
    assert (read.access is None) == (expected is KEEPS), "the door is another one than this test says"
    assert ((vmo.source, 3) in world.port.misses) == (read.access is None)
    assert world.port.misses.keys() >= {(vmo.source, 3)} or second.access is not None or name == "end_miss"
