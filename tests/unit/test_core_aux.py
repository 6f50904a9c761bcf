"""Aux VMOs: plain memory with holes."""

from __future__ import annotations

import pytest
import xxhash

from tests.oracle.world import KEY, World
from vmofs.core.vmos.aux import AuxVmo
from vmofs.status import BadStateError, IoDataIntegrityError, NoMemoryError, OutOfRangeError, UnavailableError
from vmofs.testing import pattern
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, PageRange

P = PAGE_SIZE


def test_what_was_written_is_read_and_holes_are_zero(world: World) -> None:
    aux = AuxVmo(world.system)
    assert aux.write_nowait(3 * P + 5, b"abc") == 3
    assert (aux.size_bytes, aux.size_pages, aux.committed_pages) == (3 * P + 8, 4, 1)
    assert bytes(aux.read_nowait(3 * P, 100)) == b"\0\0\0\0\0abc"
    assert bytes(aux.read_nowait(0, 4 * P)) == bytes(3 * P + 5) + b"abc"


def test_a_read_ends_at_the_end(world: World) -> None:
    aux = world.aux(0, 2)
    pattern.check(aux.read_nowait(P + 7, 9 * P), KEY, P + 7)
    assert len(aux.read_nowait(P + 7, 9 * P)) == P - 7
    for offset, length in ((2 * P, 1), (9 * P, 5), (0, 0)):
        assert aux.read_nowait(offset, length) == b""


def test_reads_cross_holes_in_every_order(world: World) -> None:
    aux = AuxVmo(world.system, 8 * P)
    for page in (5, 1, 2):
        aux.write_nowait(page * P, pattern.make_pages(KEY, PageRange(page, page + 1)))
    expected = bytearray(8 * P)
    for page in (5, 1, 2):
        expected[page * P : (page + 1) * P] = pattern.make_pages(KEY, PageRange(page, page + 1))
    for start, end in ((0, 8), (1, 3), (2, 6), (6, 8), (5, 7), (3, 5)):
        assert bytes(aux.read_nowait(start * P + 1, (end - start) * P - 2)) == expected[start * P + 1 : end * P - 1]


def test_writing_nothing_beyond_the_end_does_not_extend(world: World) -> None:
    aux = AuxVmo(world.system, resizable=False)
    assert aux.write_nowait(9 * P, b"") == 0
    assert aux.size_bytes == 0


def test_shrinking_frees_pages_and_growing_again_shows_zeros(world: World) -> None:
    aux = world.aux(0, 3)
    aux.set_size(P + 10)
    assert aux.committed_pages == 2
    aux.set_size(3 * P)
    data = bytes(aux.read_nowait(0, 3 * P))
    pattern.check(data[: P + 10], KEY)
    assert not any(data[P + 10 :])


def test_shrinking_into_a_hole_or_to_a_page_boundary_writes_nothing(world: World) -> None:
    aux = AuxVmo(world.system, 8 * P)
    aux.set_size(5 * P + 1)
    aux.set_size(5 * P)
    aux.set_size(0)
    assert (aux.committed_pages, aux.size_pages) == (0, 0)


def test_a_fixed_aux_cannot_change_size(world: World) -> None:
    aux = AuxVmo(world.system, 2 * P, resizable=False)
    assert aux.write_nowait(P, b"x" * P) == P
    for grow in (lambda: aux.set_size(P), lambda: aux.write_nowait(2 * P - 1, b"xy")):
        with pytest.raises(UnavailableError):
            grow()
    assert aux.size_bytes == 2 * P


def test_the_largest_size_is_the_limit(world: World) -> None:
    aux = AuxVmo(world.system)
    aux.set_size(MAX_VMO_BYTES)
    aux.write_nowait(MAX_VMO_BYTES - 1, b"x")
    assert aux.committed_pages == 1
    for beyond in (lambda: aux.set_size(MAX_VMO_BYTES + 1), lambda: aux.write_nowait(MAX_VMO_BYTES, b"x")):
        with pytest.raises(OutOfRangeError):
            beyond()


def test_pinned_pages_cannot_be_cut_off(world: World) -> None:
    aux = world.aux(0, 4)
    aux.pinned.add(PageRange(2, 3))
    with pytest.raises(BadStateError, match="pinned"):
        aux.set_size(2 * P)
    aux.set_size(2 * P + 1)
    assert aux.size_pages == 3


def test_a_write_beyond_the_memory_limit_changes_nothing() -> None:
    world = World(limit_pages=2)
    aux = AuxVmo(world.system)
    aux.write_nowait(0, b"x" * P)
    with pytest.raises(NoMemoryError, match="at most 2"):
        aux.write_nowait(P, b"x" * 2 * P)
    assert (aux.size_bytes, aux.committed_pages) == (P, 1)
    world.check()


def test_the_sum_is_taken_over_holes_too_and_over_more_than_one_step(world: World) -> None:
    aux = AuxVmo(world.system, 300 * P)
    aux.write_nowait(260 * P, b"abc")
    data = bytes(P) * 260 + b"abc" + bytes(40 * P - 3)
    aux.check_can_give(0, 300 * P, xxhash.xxh3_64_intdigest(data))
    aux.check_can_give(0, 0, 12345)
    with pytest.raises(IoDataIntegrityError, match="not 0000000000000001"):
        aux.check_can_give(0, 300 * P, 1)


def test_closing_frees_everything(world: World) -> None:
    aux = world.aux(0, 4)
    statistics = aux.statistics()
    assert (statistics.size_bytes, statistics.committed_pages) == (4 * P, 4)
    aux.close()
    assert (world.system.frames.statistics().used, world.system.statistics().objects) == (0, 0)
