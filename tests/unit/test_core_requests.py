"""What generates READ, how long it is, and bounds (zircon-pager 2.8, 3.1, 3.2, 3.9)."""

from __future__ import annotations

import pytest

from tests.oracle.world import KEY, World
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import BadStateError, OutOfRangeError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, UINT64_MAX, PageRange

P = PAGE_SIZE


def test_a_read_asks_from_its_first_gap_to_the_end_of_what_it_needs(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 1)
    reader = world.start_read(vmo, 1, 5)
    assert world.packets() == ["READ(2,4)"]
    world.supply(vmo, 2, 4)
    pattern.check_pages(reader.result(), KEY, PageRange(1, 6))
    assert world.packets() == []


@pytest.mark.parametrize("zero", [False, True], ids=["page", "marker"])
def test_a_request_stops_at_the_first_present_page(world: World, zero: bool) -> None:
    vmo = world.vmo()
    world.supply(vmo, 3, zero=zero)
    reader = world.start_read(vmo, 0, 8)
    assert world.packets() == ["READ(0,3)"]
    world.supply(vmo, 0, 3)
    assert world.packets() == ["READ(4,4)"]
    world.supply(vmo, 4, 4)
    assert reader.done


def test_a_request_stops_at_zeros_beyond_the_stream_size(world: World) -> None:
    vmo = world.vmo(2, options=VmoOptions(unbounded=True))
    reader = world.start_read(vmo, 1, 3)
    assert world.packets() == ["READ(1,1)"]
    world.supply(vmo, 1)
    assert reader.result() == pattern.make_pages(KEY, PageRange(1, 2)) + bytes(2 * P)


def test_reads_between_stream_size_and_vmo_size_give_zeros_without_asking(world: World) -> None:
    vmo = world.vmo(0, options=VmoOptions(unbounded=True))
    assert world.start_read(vmo, 1000, 2).result() == bytes(2 * P)
    assert world.packets() == []


def test_a_read_request_has_no_upper_limit(world: World) -> None:
    vmo = world.vmo(555)
    world.start_read(vmo, 0, 555)
    assert world.packets() == ["READ(0,555)"]


def test_an_8_byte_read_over_a_page_boundary_asks_for_two_pages(world: World) -> None:
    vmo = world.vmo()
    reader = world.start(vmo.read(P - 4, 8))
    assert world.packets() == ["READ(0,2)"]
    world.supply(vmo, 0, 2)
    pattern.check(reader.result(), KEY, P - 4)


def test_sequential_single_page_reads_ask_for_one_page_each(world: World) -> None:
    vmo = world.vmo(32)
    for page in range(32):
        reader = world.start_read(vmo, page)
        assert world.packets() == [f"READ({page},1)"]
        world.supply(vmo, page)
        assert reader.done


def test_a_page_supplied_beyond_what_was_asked_is_simply_present(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 1)
    world.supply(vmo, 0, 4)
    assert reader.done
    assert world.start_read(vmo, 0, 4).done
    assert world.packets() == []


def test_uncommitted_single_page_satisfies_a_reader(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0)
    world.supply(vmo, 0, zero=True)
    assert reader.result() == bytes(P)
    assert vmo.committed_pages == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(8 * P, 1), (0, 8 * P + 1), (8 * P + 1, 0), (UINT64_MAX, 2), (UINT64_MAX, UINT64_MAX)]
)
def test_reads_and_writes_out_of_range_ask_for_nothing(world: World, offset: int, length: int) -> None:
    vmo = world.vmo()
    with pytest.raises(OutOfRangeError):
        vmo.read_nowait(offset, length)
    with pytest.raises(OutOfRangeError):
        world.start(vmo.read(offset, length)).result()
    with pytest.raises(OutOfRangeError):
        world.start(vmo.write(min(offset, 8 * P + 1), b"x" * min(length, 8 * P + 1))).result()
    assert world.packets() == []


def test_length_zero_within_the_size_is_ok_and_asks_for_nothing(world: World) -> None:
    vmo = world.vmo()
    for offset in (0, 5, 8 * P):
        assert world.start(vmo.read(offset, 0)).result() == b""
        assert vmo.read_nowait(offset, 0) == b""
        assert world.start(vmo.write(offset, b"")).result() == 0
    assert world.packets() == []
    assert not vmo.modified


def test_read_nowait_never_asks(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 2)
    world.supply(vmo, 1)
    world.supply(vmo, 4, zero=True)
    for page, pages in ((0, 2), (2, 2), (0, 1), (2, 3), (7, 1)):
        assert vmo.read_nowait(page * P, pages * P) is None
    pattern.check_pages(vmo.read_nowait(P, 2 * P) or b"", KEY, PageRange(1, 3))
    assert world.packets() == []


def test_a_read_that_fails_half_way_tells_only_the_status(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    world.pager.close()
    reader = world.start_read(vmo, 0, 4)
    with pytest.raises(BadStateError, match="absent"):
        reader.result()


def test_what_was_copied_is_not_asked_for_again_when_it_is_evicted_meanwhile(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0, 2)
    reader = world.start_read(vmo, 0, 4)
    world.pager.evict(vmo, 0, 2 * P)
    world.supply(vmo, 2, 2)
    pattern.check_pages(reader.result(), KEY, PageRange(0, 4))
    assert world.states(vmo) == "..cc...."


def test_one_vmo_of_two_keeps_its_requests_and_contents_apart(world: World) -> None:
    one, two = world.vmo(), world.vmo(key=2 * KEY)
    readers = [world.start_read(vmo, 0, 2) for vmo in (one, two)]
    first, second = world.port.dequeue(), world.port.dequeue()
    assert first is not None
    assert second is not None
    assert [first.key, second.key] == [KEY, 2 * KEY]
    assert [first.source, second.source] == [one.source, two.source]
    world.supply(two, 0, 2)
    assert [reader.done for reader in readers] == [False, True]
    pattern.check_pages(readers[1].result(), 2 * KEY, PageRange(0, 2))


def test_two_vmos_may_have_the_same_key(world: World) -> None:
    one, two = world.vmo(), world.vmo()
    world.start_read(one, 0)
    world.start_read(two, 1)
    assert world.packets() == ["READ(0,1)", "READ(1,1)"]
    world.supply(one, 0)
    assert world.states(two) == "........"


def test_what_is_there_and_from_where_on_something_is_absent(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 1, 2)
    world.supply(vmo, 3, zero=True)
    assert vmo.committed(PageRange(0, 8)) == [PageRange(1, 3)]
    assert vmo.committed(PageRange(2, 8)) == [PageRange(2, 3)]
    assert vmo.absent(PageRange(1, 6)) == PageRange(4, 6)
    assert vmo.absent(PageRange(0, 3)) == PageRange(0, 3)
    assert vmo.absent(PageRange(1, 4)) == PageRange(1, 4)
