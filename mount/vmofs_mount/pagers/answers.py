"""Answers of pagers: what is told to whom when pages have come."""

from __future__ import annotations

from vmofs.units import PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.files.vmo_file import OpenVmos
from vmofs_mount.loop.engine import Engine
from vmofs_mount.tree.inodes import VmoFile

_PIECES = 100
"""Ranges that are dealt with in one go, in a part of a millisecond."""


class Answers:
    """Hands on what pagers have answered."""

    def __init__(self, engine: Engine, opened: OpenVmos, cache: PageCache) -> None:
        self._engine = engine
        self._opened = opened
        self._cache = cache

    async def supplied(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Act on newly filled pages: who waits is answered first, the other pages go to the page cache."""
        self._engine.settle()
        work = self._engine.begin_work(file.uid)
        for first in range(0, len(filled), _PIECES) or (0,):
            if work.is_over:
                await work.rest()
            self._opened.supplied(file, filled[first : first + _PIECES])
            self._cache.supplied(file, filled[first : first + _PIECES])
        await self._engine.answer_first()
