"""The statistic "modified" (zircon-pager 2.7, 4.9). Cases that belong to another call stand with that call."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from tests.support.dirty_harness import P, ack, clean, grown, modified, resize, states
from vmofs.core.vmos.aux import AuxVmo
from vmofs.status import BadStateError, InvalidArgsError, IoError, UnavailableError


def test_stats_are_refused_for_vmos_of_others(world: World) -> None:
    for stranger in (AuxVmo(world.system, P), World().vmo()):
        with pytest.raises(InvalidArgsError, match="not made by this pager"):
            world.pager.query_vmo_stats(stranger, reset=True)


def test_modified_starts_clear_and_is_cleared_only_by_a_query_with_reset(world: World) -> None:
    vmo = world.vmo()
    assert not world.pager.query_vmo_stats(vmo)
    world.supply(vmo, 0)
    world.start_write(vmo, 0)
    for _ in range(2):
        assert world.pager.query_vmo_stats(vmo)
    assert world.pager.query_vmo_stats(vmo, reset=True)
    assert not world.pager.query_vmo_stats(vmo)


def test_stats_of_a_detached_vmo_can_be_read_and_reset(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    world.start_write(vmo, 0)
    world.pager.detach_vmo(vmo)
    assert modified(world, vmo)
    assert not modified(world, vmo)


def test_reads_commits_supplies_op_dirty_and_writeback_do_not_set_it(world: World) -> None:
    vmo = grown(world, 6, 8, trap=True)
    world.start_read(vmo, 0, 2)
    world.supply(vmo, 0, 6)
    ack(world, vmo, 0, 8)
    world.start(vmo.commit(0, 8 * P)).result()
    clean(world, vmo, 0, 8)
    world.pager.query_dirty_ranges(vmo, 0, 8 * P)
    assert not modified(world, vmo)


def test_it_is_not_tied_to_dirtiness(world: World) -> None:
    vmo = world.vmo()
    world.supply(vmo, 0)
    world.start_write(vmo, 0)
    clean(world, vmo, 0)
    assert (states(vmo)[0], modified(world, vmo)) == ("c", True)


def test_a_refused_write_does_not_set_it_and_a_write_that_got_somewhere_does(world: World) -> None:
    vmo = world.trap_vmo(20)
    world.supply(vmo, 0, 20)
    write = world.start_write(vmo, 0, 20)
    world.fail(vmo, 0, 16)
    with pytest.raises(IoError):
        write.result()
    assert not modified(world, vmo)
    write = world.start_write(vmo, 0, 20)
    ack(world, vmo, 0, 16)
    world.fail(vmo, 16, 4)
    with pytest.raises(IoError):
        write.result()
    assert modified(world, vmo)  # ModifiedOnPartialVmoWrite


def test_a_write_to_an_already_dirty_page_sets_it_again(world: World) -> None:
    vmo = world.trap_vmo()
    world.supply(vmo, 0)
    ack(world, vmo, 0)
    for _ in range(2):
        world.start_write(vmo, 0)
        assert modified(world, vmo)


def test_a_failed_resize_does_not_set_it(world: World) -> None:
    fixed, growing = world.vmo(), grown(world, 2, 2)
    with pytest.raises(UnavailableError):
        world.start(fixed.set_size(P)).result()
    world.supply(growing, 0, 2)
    world.start(growing.pin(P, P)).result()
    with pytest.raises(BadStateError):
        world.start(growing.set_size(0)).result()
    assert not modified(world, fixed)
    assert not modified(world, growing)
    resize(world, growing, 2)
    assert modified(world, growing)
