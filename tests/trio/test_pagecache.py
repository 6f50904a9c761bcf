"""Stores into the kernel's page cache that are late: what was written meanwhile must not be undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.oracle.world import World
from tests.support.reads import waiting_read
from vmofs.core.pages.content import Bytes
from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.tree.inodes import VmoFile

SHORT_SECONDS = 0.05
LONG_SECONDS = 30.0


class SlowKernel:
    """A kernel that stores nothing until it may, as if a page were locked."""

    def __init__(self) -> None:
        self.may_store = threading.Event()
        self.calls: list[tuple[str, int]] = []

    def store_all(self, ino: int, pieces: list[tuple[int, Bytes]]) -> None:
        del ino
        assert self.may_store.wait(LONG_SECONDS)
        self.calls += [("store", offset // PAGE_SIZE) for offset, _ in pieces]

    def drop(self, ino: int, offset: int, length: int) -> None:
        del ino, length
        self.calls.append(("drop", offset // PAGE_SIZE))

    def drop_attributes(self, ino: int) -> None:
        del ino


class Cache:
    """The page cache of one file that somebody has open for reading, and a store of its page 2 that is under way."""

    def __init__(self, spawn: Callable[..., None]) -> None:
        world = World()
        self.kernel = SlowKernel()
        vmo = world.vmo(4)
        self.file = VmoFile(0o644, 0, 0, vmo, world.pager)
        self.file.open_count = 1
        self.cache = PageCache(self.kernel, world.system.frames, spawn)  # type: ignore[arg-type] # as much as is used
        self.cache.supplied(self.file, world.supply(vmo, 2))

    def writer_comes(self) -> None:
        self.file.writer_count += 1
        self.file.writers_total += 1

    def writer_goes(self) -> None:
        self.file.writer_count -= 1

    async def wait_done(self) -> None:
        self.kernel.may_store.set()
        await self.cache.wait_dropped(self.file, LONG_SECONDS)


async def test_a_store_stays_if_nobody_could_write_while_it_was_under_way() -> None:
    async with trio.open_nursery() as nursery:
        cache = Cache(nursery.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        await cache.wait_done()
        assert cache.kernel.calls == [("store", 2)]


async def test_a_store_is_undone_if_a_writer_came_meanwhile_even_if_he_has_gone_again() -> None:
    for closes in (False, True):
        async with trio.open_nursery() as nursery:
            cache = Cache(nursery.start_soon)
            await trio.testing.wait_all_tasks_blocked()
            cache.writer_comes()
            if closes:
                cache.writer_goes()
            await cache.wait_done()
            assert cache.kernel.calls == [("store", 2), ("drop", 2)]


async def test_who_opens_a_file_to_write_can_wait_for_the_store_that_is_under_way_but_not_for_long() -> None:
    async with trio.open_nursery() as nursery:
        cache = Cache(nursery.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        cache.writer_comes()
        began = time.monotonic()
        await cache.cache.wait_stored(cache.file, SHORT_SECONDS)
        assert time.monotonic() - began >= SHORT_SECONDS
        assert cache.kernel.calls == []
        cache.kernel.may_store.set()
        await cache.cache.wait_stored(cache.file, LONG_SECONDS)
        assert cache.kernel.calls[0] == ("store", 2)
        cache.cache.supplied(cache.file, [PageRange(2, 3)])
        began = time.monotonic()
        await cache.cache.wait_stored(cache.file, LONG_SECONDS)
        assert time.monotonic() - began < LONG_SECONDS / 2


@pytest.mark.parametrize("waiting", ["read", "write"])
async def test_nobody_waits_for_pages_of_a_read_or_write_that_waits(waiting: str) -> None:
    """He may be the pager whom it waits for."""

    async def seconds_waited(page: int, seconds: float) -> float:
        """Wait until the store of page 2 is over, while a READ or WRITE of ``page`` waits."""
        pages = PageRange(page, page + 1)
        read, write = waiting_read(pages, cache.file), cache.cache.writes.begin(cache.file, pages)
        cache.cache.reads.add(read)
        if waiting == "read":
            cache.cache.writes.end(write)
        else:
            cache.cache.reads.remove(read)
        began = time.monotonic()
        await cache.cache.wait_dropped(cache.file, seconds)
        if waiting == "read":
            cache.cache.reads.remove(read)
        else:
            cache.cache.writes.end(write)
        return time.monotonic() - began

    async with trio.open_nursery() as nursery:
        cache = Cache(nursery.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        assert await seconds_waited(2, LONG_SECONDS) < LONG_SECONDS / 2
        assert await seconds_waited(3, 20 * SHORT_SECONDS) >= 10 * SHORT_SECONDS
        await cache.wait_done()


async def test_what_takes_long_is_waited_for_once_by_all_together() -> None:
    async with trio.open_nursery() as nursery:
        cache = Cache(nursery.start_soon)
        await trio.testing.wait_all_tasks_blocked()
        began = time.monotonic()
        for _ in range(100):
            await cache.cache.wait_dropped(cache.file, 1.0)
        assert 1.0 <= time.monotonic() - began < LONG_SECONDS / 2
        await cache.wait_done()
