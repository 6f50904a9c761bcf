"""The root object, accesses, and what the invariants notice."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from vmofs.core.pages.runs import Run
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access, Need, Steps
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import IoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import PacketCommand


def test_the_statistics_count_over_all_objects(world: World) -> None:
    vmo = world.vmo()
    world.aux(0, 3)
    world.supply(vmo, 0, 2)
    world.start_read(vmo, 2)
    world.start_read(vmo, 2)
    counts = world.system.statistics()
    assert (counts.objects, counts.requests_outstanding, counts.waiters) == (2, 1, 2)
    assert counts.frames.used == 5


def test_those_who_woke_run_once_and_are_returned_when_finished(world: World) -> None:
    vmo = world.vmo()
    readers = [world.start_read(vmo, 0), world.start_read(vmo, 0, 2)]
    world.pager.supply_pages(vmo, 0, PAGE_SIZE, world.aux(0, 1), 0)
    assert world.run() == [readers[0]]
    assert world.run() == []


def test_there_is_news_for_the_edge_until_all_of_it_was_taken(world: World) -> None:
    vmo = world.vmo()
    assert not has_news(world)
    world.start_read(vmo, 0)
    assert has_news(world)
    assert len(world.system.take_ports()) == 1
    assert not has_news(world)
    world.supply(vmo, 0, 1)  # settles what it brought about
    world.pager.evict(vmo, 0, PAGE_SIZE)
    assert has_news(world)
    world.system.take_stale()
    assert not has_news(world)


def has_news(world: World) -> bool:
    system = world.system
    return bool(system.woken or system.ports_ready or system.stale)


def test_an_access_that_waits_for_one_thing_after_another(world: World) -> None:
    first, second = world.vmo(), world.vmo(key=2 * KEY)

    def steps() -> Steps[str]:
        try:
            yield Need(first.source, PacketCommand.READ, PageRange(0, 2), 0)
        except IoError:
            yield Need(second.source, PacketCommand.READ, PageRange(0, 1))
        yield Need(second.source, PacketCommand.DIRTY, PageRange(0, 1))
        return "done"

    access = world.start(Access(steps()))
    assert world.packets() == ["READ(0,2)"]
    world.fail(first, 0)  # caught: it leaves the request that it was woken from
    assert world.packets() == ["READ(0,1)"]
    world.supply(second, 0)
    assert world.packets() == ["DIRTY(0,1)"]
    assert [request.source for request in world.system.requests] == [second.source]
    second.source.resolve(PacketCommand.DIRTY, PageRange(0, 1))
    assert world.run() == [access]
    assert access.result() == "done"


def test_who_needs_something_else_when_woken_early_leaves_his_request_to_others(world: World) -> None:
    vmo = world.vmo()

    def steps() -> Steps[None]:
        yield Need(vmo.source, PacketCommand.READ, PageRange(0, 4), 0)
        yield Need(vmo.source, PacketCommand.READ, PageRange(5, 6), 5)

    world.start(Access(steps()))
    reader = world.start_read(vmo, 1, 3)
    world.supply(vmo, 0)
    assert world.packets() == ["READ(0,4)", "READ(5,1)"]
    world.supply(vmo, 1, 3)
    assert reader.done


def test_an_error_that_is_no_status_is_not_swallowed(world: World) -> None:
    def steps() -> Steps[None]:
        yield Need(world.vmo().source, PacketCommand.READ, PageRange(0, 1))
        raise RuntimeError("a defect")

    access = world.start(Access(steps()))
    (request,) = world.system.requests
    request.source.resolve(PacketCommand.READ, PageRange(0, 1))
    with pytest.raises(RuntimeError, match="a defect"):
        world.run()
    access.cancel()


def test_check_finds_a_vmo_page_beyond_the_end() -> None:
    world = World()
    vmo = world.vmo(2)
    vmo.node.runs.put(Run(2, 3, PageState.MARKER))
    with pytest.raises(AssertionError):
        world.check()


def test_check_finds_a_frame_with_two_owners() -> None:
    world = World()
    vmos: list[PagerVmo] = [world.vmo(), world.vmo()]
    world.supply(vmos[0], 0)
    vmos[1].node.runs.put(vmos[0].node.runs.over(PageRange(0, 1))[0])
    with pytest.raises(AssertionError, match="two owners"):
        world.check()


# The pattern that all tests use


def test_a_pattern_says_which_page_came_from_where() -> None:
    data = pattern.make_pages(KEY, PageRange(0, 3))
    pattern.check_pages(data, KEY, PageRange(0, 3))
    swapped = data[:PAGE_SIZE] + data[2 * PAGE_SIZE :] + data[PAGE_SIZE : 2 * PAGE_SIZE]
    with pytest.raises(pattern.PatternError, match=f"page 1 of key {KEY:#x} holds page 2 of key {KEY:#x}"):
        pattern.check_pages(swapped, KEY, PageRange(0, 3))
    with pytest.raises(pattern.PatternError, match=f"page 0 of key {2 * KEY:#x} holds page 0 of key {KEY:#x}"):
        pattern.check(data, 2 * KEY)
    with pytest.raises(pattern.PatternError, match="instead of"):
        pattern.check_pages(data, KEY, PageRange(0, 2))


@pytest.mark.parametrize(
    ("data", "offset", "sentence"),
    [
        (bytes(PAGE_SIZE), 0, "holds zeros"),
        (b"\1" * PAGE_SIZE, 0, "holds no page of any key: its first words are 0101010101010101 "),
        (b"\xff" * PAGE_SIZE, 0, "holds no page"),
        (b"abc", 1, "holds the bytes 616263"),
        (pattern.make(KEY, 13, 100), 5 * PAGE_SIZE + 13, f"page 5 of key {KEY:#x} holds page 0 of key {KEY:#x}"),
        (pattern.make_pages(KEY, PageRange(0, 1))[:-1] + b"x", 0, "holds no page"),
    ],
)
def test_a_pattern_describes_what_it_finds(data: bytes, offset: int, sentence: str) -> None:
    with pytest.raises(pattern.PatternError, match=sentence):
        pattern.check(data, KEY, offset)


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 8), (3, 2), (4095, 10), (17, 4096)])
def test_a_pattern_can_be_made_from_any_byte_to_any_other(offset: int, length: int) -> None:
    whole = pattern.make(KEY, 0, 3 * PAGE_SIZE)
    assert pattern.make(KEY, offset, length) == whole[offset : offset + length]
    assert int.from_bytes(whole[16:24], "little") == KEY + 2
    pattern.check(memoryview(whole)[offset : offset + length], KEY, offset)


def test_nothing_is_stale_of_a_range_without_pages(world: World) -> None:
    world.system.mark_stale(world.vmo(), PageRange(3, 3))
    assert world.system.take_stale() == {}
