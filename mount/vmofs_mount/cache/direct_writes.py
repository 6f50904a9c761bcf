"""Writes with O_DIRECT: their pages go from the page cache before they are answered.

The kernel drops the pages of a direct write itself, before it sends it, and once more when it has been answered. But
not the second time if it is asynchronous (libaio, io_uring): what somebody read in between would stay for good. That a
write is asynchronous we are not told, so it is done for all whose open file is O_DIRECT and has a page cache; an aux
that is open for writing only has none, and of it the kernel drops the pages in time.

A WRITE by which the kernel writes back what was stored through a mapping of that very open file looks the same (pyfuse3
does not tell FUSE_WRITE_CACHE). Its page is held until it is answered, so a drop would wait for that answer: it is not
waited for long, and then never again for that open file.
"""

from __future__ import annotations

from typing import Protocol

from vmofs.units import PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.tree.inodes import AuxFile, VmoFile

_SECONDS = 2.0


class DirectHandle(Protocol):
    """An open file with O_DIRECT. ``is_mapped``: WRITEs by it may be what was stored through a mapping of it."""

    is_mapped: bool


class DirectWrites:
    """The direct writes of one mount."""

    def __init__(self, cache: PageCache) -> None:
        self._cache = cache

    async def written(self, handle: DirectHandle, file: VmoFile | AuxFile, pages: PageRange) -> None:
        """Drop what a WRITE that is about to be answered has written, so that nobody reads what was there before."""
        if not file.maybe_cached or not pages:
            return
        if handle.is_mapped:
            self._cache.drop(file, [pages])
        elif not await self._cache.drop_unlocked(file, [pages], _SECONDS):
            handle.is_mapped = True
