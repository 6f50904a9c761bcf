"""Messages about attributes: given by threads, which may have to wait for an unmount, and told before an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import trio
import trio.testing

from tests.oracle.world import World
from vmofs.core.vmos.aux import AuxVmo
from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.tree.inodes import AuxFile, VmoFile

SHORT_SECONDS = 0.05
LONG_SECONDS = 30.0


class UnmountingKernel:
    """A kernel that takes no message until it may, as if an unmount waited."""

    def __init__(self) -> None:
        self.may_take = threading.Event()
        self.told: list[int] = []
        self.threads: set[int] = set()

    def drop_attributes(self, ino: int) -> None:
        self.threads.add(threading.get_ident())
        assert self.may_take.wait(LONG_SECONDS)
        self.told.append(ino)


class Made(NamedTuple):
    """A page cache and two files of which it may tell the kernel."""

    kernel: UnmountingKernel
    cache: PageCache
    vmo: VmoFile
    aux: AuxFile


def make(spawn: Callable[..., None]) -> Made:
    world, kernel = World(), UnmountingKernel()
    vmo = VmoFile(0o644, 0, 0, world.vmo(4), world.pager)
    aux = AuxFile(0o644, 0, 0, AuxVmo(world.system, 4 * PAGE_SIZE))
    for ino, file in enumerate((vmo, aux), 7):
        file.ino, file.lookup_count = ino, 1
    return Made(kernel, PageCache(kernel, world.system.frames, spawn), vmo, aux)  # type: ignore[arg-type]


async def test_the_loop_goes_on_while_a_message_waits() -> None:
    async with trio.open_nursery() as nursery:
        made = make(nursery.start_soon)
        made.cache.size_changed(made.vmo.vmo)
        with trio.move_on_after(SHORT_SECONDS) as waited:
            await made.cache.wait_dropped_everywhere(made.vmo.vmo, LONG_SECONDS)
        assert waited.cancelled_caught
        assert made.kernel.told == []
        made.kernel.may_take.set()
    assert made.kernel.told == [7]
    assert threading.get_ident() not in made.kernel.threads
    made.cache.check()


async def test_who_waits_for_drops_waits_for_attributes_but_not_for_long() -> None:
    async with trio.open_nursery() as nursery:
        made = make(nursery.start_soon)
        made.cache.size_changed(made.vmo.vmo)
        await made.cache.wait_dropped_everywhere(made.vmo.vmo, SHORT_SECONDS)
        assert made.kernel.told == []
        made.kernel.may_take.set()
        await made.cache.wait_dropped_everywhere(made.vmo.vmo, LONG_SECONDS)
        assert made.kernel.told == [7]


async def test_what_changes_while_it_is_being_told_is_told_again_once() -> None:
    async with trio.open_nursery() as nursery:
        made = make(nursery.start_soon)
        for _ in range(3):
            made.cache.size_changed(made.vmo.vmo)
        await trio.testing.wait_all_tasks_blocked()
        while not made.kernel.threads:  # noqa: ASYNC110 - a thread cannot set it
            await trio.sleep(0.001)
        for _ in range(3):
            made.cache.size_changed(made.vmo.vmo)
        made.kernel.may_take.set()
        await made.cache.wait_dropped(made.vmo, LONG_SECONDS)
    assert made.kernel.told == [7, 7]


async def test_of_a_file_that_changes_its_size_itself_nothing_is_told() -> None:
    async with trio.open_nursery() as nursery:
        made = make(nursery.start_soon)
        made.cache.size_changed(made.vmo.vmo, but=made.vmo)
        await made.cache.wait_dropped(made.vmo, LONG_SECONDS)
    assert made.kernel.told == []


async def test_the_attributes_of_an_aux_are_told_if_somebody_has_looked() -> None:
    async with trio.open_nursery() as nursery:
        made = make(nursery.start_soon)
        made.kernel.may_take.set()
        stale = [PageRange(0, 1)]
        made.cache.drop(made.aux, stale)
        await made.cache.wait_dropped(made.aux, LONG_SECONDS)
        assert made.kernel.told == []
        made.aux.attributes_told = True
        made.cache.drop(made.aux, stale)
        await made.cache.wait_dropped(made.aux, LONG_SECONDS)
        assert made.kernel.told == [8]
