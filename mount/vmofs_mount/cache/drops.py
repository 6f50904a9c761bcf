"""Drops of pages from the kernel's page cache, by threads: each waits while a READ or WRITE has one of them locked."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import trio

from vmofs.units import PageRange
from vmofs_mount.cache.attributes import CachedFile
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.lanes import Lanes

_THREADS = 32
"""For each user who can let the pages of a file be locked."""

_DROPS_OF_FILE = 4
"""That failed reads and writes of one file want at the same time."""


class Drops:
    """Drops pages of any file. ``controller`` returns who can let its pages be locked: he answers the READs.

    Apart from stores: these may all be stuck behind pages that a slow pager owes, drops must still go on.
    """

    def __init__(self, kernel: Kernel, controller: Callable[[CachedFile], int]) -> None:
        self._kernel = kernel
        self._controller = controller
        self._threads = Lanes(_THREADS)
        self._turns: WeakKeyDictionary[CachedFile, trio.Semaphore] = WeakKeyDictionary()
        self.ranges_total = 0

    async def drop(self, file: CachedFile, pages: PageRange, begun: Callable[[], None] = lambda: None) -> None:
        """Drop pages, and return when they are gone. ``begun`` is called by the thread that is about to."""

        def drop() -> None:
            begun()
            self._kernel.drop(file.ino, pages.offset, pages.length)

        self.ranges_total += 1
        await self._threads.run(self._controller(file), drop)

    async def drop_in_turn(self, file: CachedFile, pages: PageRange, begun: Callable[[], None] = lambda: None) -> None:
        """Drop pages for one of many who want that of a file: they must not take all threads of its pager's owner."""
        turns = self._turns.get(file)
        if turns is None:
            turns = self._turns[file] = trio.Semaphore(_DROPS_OF_FILE)
        async with turns:
            await self.drop(file, pages, begun)
