"""Writes with O_DIRECT: their pages go from the page cache before they are answered.

The kernel drops the pages of a direct write itself, before it sends it, and once more when it has been answered. But
not the second time if it is asynchronous (libaio, io_uring): what somebody read in between would stay for good. That a
write is asynchronous we are not told, so it is done for all whose open file is O_DIRECT and has a page cache; an aux
that is open for writing only has none, and of it the kernel drops the pages in time.
"""

from __future__ import annotations

from vmofs.units import PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.tree.inodes import AuxFile, VmoFile

_SECONDS = 2.0


class DirectWrites:
    """The direct writes of one mount."""

    def __init__(self, cache: PageCache) -> None:
        self._cache = cache

    async def written(self, file: VmoFile | AuxFile, pages: PageRange) -> None:
        """Drop what a WRITE that is about to be answered has written, so that nobody reads what was there before.

        Not for what was stored through a mapping: its page is held until the WRITE is answered.
        """
        if file.maybe_cached and pages:
            await self._cache.drop_unlocked(file, [pages], _SECONDS)
