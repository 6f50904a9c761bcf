"""WRITEs that were answered before they were carried out, so that nothing is lost when they have to be let go.

A WRITE that waits for a pager holds up a process that removes or renames the file, and so everybody who uses the
directory. A killed process does not end before its WRITE is answered. An error lets them go on, and is right for what a
program writes, since it learns of it. What was stored through a mapping the kernel sends once, and forgets it, whatever
the answer. WRITE says which of both it is (FUSE_WRITE_CACHE).

So the latter is *taken*: it is answered as if it were carried out, and is carried out when the pager has consented.
Until then a READ of the file gets its bytes, from here. FSYNC and changes of the size wait for it, and a later WRITE of
the same pages is taken as well, behind it: the last one wins. By other names (references, slices) it is seen when it is
carried out, as stores through mappings are. If it fails after all, the next FSYNC says so, once, as after a failed
writeback of the kernel's, and the pages are as they were before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import trio

from vmofs.core.pages.content import Bytes
from vmofs.status import VmoError
from vmofs.units import ALL_PAGES, PageRange
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.cache.pending_writes import PendingWrite
from vmofs_mount.tree.inodes import VmoFile

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class TakenWrite:
    """Bytes at an offset of a file; ``over`` is set when they are there, or will never be."""

    file: VmoFile
    offset: int
    data: bytes
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def pages(self) -> PageRange:
        """The pages that it writes to."""
        return PageRange.of_bytes(self.offset, len(self.data))


class TakenWrites:
    """Those of all files. Tasks run in ``spawn``'s nursery."""

    def __init__(self, cache: PageCache, spawn: Callable[..., None]) -> None:
        self._cache = cache
        self._spawn = spawn
        self._by_file: dict[VmoFile, list[TakenWrite]] = {}
        self._failed: WeakKeyDictionary[VmoFile, VmoError] = WeakKeyDictionary()

    def __bool__(self) -> bool:
        """Return whether there are any: seldom."""
        return bool(self._by_file)

    def over(self, file: VmoFile, pages: PageRange) -> list[TakenWrite]:
        """Return those that write to some of these pages, in order."""
        return [write for write in self._by_file.get(file, ()) if write.pages & pages]

    def take(self, file: VmoFile, offset: int, data: bytes, carry_out: Callable[[], Awaitable[object]]) -> int:
        """Take a WRITE, and return its length. ``carry_out`` is awaited when those before it are over.

        It raises VmoError if the WRITE fails.
        """
        write = TakenWrite(file, offset, data)
        earlier = self.over(file, write.pages)
        self._by_file.setdefault(file, []).append(write)
        self._spawn(self._finish, write, earlier, carry_out)
        return len(data)

    async def _finish(
        self, write: TakenWrite, earlier: list[TakenWrite], carry_out: Callable[[], Awaitable[object]]
    ) -> None:
        file, pages = write.file, write.pages
        try:
            for other in earlier:
                await other.over.wait()
            await carry_out()
        except VmoError as error:
            self._failed[file] = error
            _log.warning("what was written to pages %s of %s is lost: %s", pages, file.path, error)
            self._cache.drop(file, [pages])
        finally:
            self._remove(write)
            write.over.set()
        await self._cache.written(PendingWrite(file, pages), DROP_SECONDS)  # READs that wait may have copied them

    def _remove(self, write: TakenWrite) -> None:
        writes = self._by_file[write.file]
        writes.remove(write)
        if not writes:
            del self._by_file[write.file]

    def overlay(self, file: VmoFile, offset: int, data: Bytes) -> Bytes:
        """Return what a READ gets: the bytes that the VMO has at an offset, and over them those that were taken."""
        writes = self.over(file, PageRange.of_bytes(offset, len(data)))
        if not writes:
            return data
        shown = bytearray(data)
        for write in writes:
            start, end = max(offset, write.offset), min(offset + len(data), write.offset + len(write.data))
            if start < end:
                shown[start - offset : end - offset] = write.data[start - write.offset : end - write.offset]
        return memoryview(shown)

    async def wait_over(self, file: VmoFile) -> None:
        """Wait until all that have been taken of a file by now are over."""
        for write in self.over(file, ALL_PAGES):
            await write.over.wait()

    def raise_failure(self, file: VmoFile) -> None:
        """Tell once that one has failed.

        Raises:
            VmoError: what it failed with.
        """
        error = self._failed.pop(file, None)
        if error is not None:
            raise error

    def check(self) -> None:
        """Assert that only files with one are remembered."""
        assert all(self._by_file.values())
