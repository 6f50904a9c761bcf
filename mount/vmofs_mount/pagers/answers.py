"""The one door by which the answers of pagers come into the model: pages, failures, consent to writes.

Whoever answers for a pager, a command, a write into ``supply/``, or something in this very process, calls this and
nothing of the core's pager that wakes somebody. What has to follow an answer follows here, in this order:

1. the open files forget failures of pages that are there now;
2. the page cache queues stores of what no waiting READ brings, while it knows of those that wait;
3. ``settle``: who waits goes on. READs are answered at once, so before anything is stored: readers before stores;
4. others who were woken go on, then whoever has answered for the pager: they have waited longer.

What ends requests without answering them (a deadline, a detach, the end of a pager) has no pages to tell of; it
settles, and that is all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from vmofs.core.pager import Pager
from vmofs.core.requests.access import Access
from vmofs.core.vmos.children import Vmo
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import PagerOp
from vmofs.wire.commands import SupplyPages
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.files.vmo_file import OpenVmos
from vmofs_mount.loop.engine import Engine
from vmofs_mount.tree.inodes import VmoFile

PATIENCE_SECONDS = 10.0
"""How long a command is carried out, slice by slice, before its result comes later. Only its pager's file is locked."""

_PIECES = 100
"""Ranges that are dealt with in one go, in a part of a millisecond."""

Rest = Callable[[], Awaitable[None]]
"""What remains of an answer that has to wait, or takes long."""


class Answers:
    """Takes the answers of pagers. Each call is for the pager that made the VMO, which the core checks."""

    def __init__(self, engine: Engine, opened: OpenVmos, cache: PageCache) -> None:
        self._engine = engine
        self._opened = opened
        self._cache = cache

    def supply_bytes(self, pager: Pager, file: VmoFile, offset: int, data: bytes | memoryview) -> None:
        """Supply pages with the given bytes, no more than one WRITE has.

        Raises:
            VmoError: as ``Pager.supply_bytes``; nothing has changed.
        """
        with self._engine.change():
            readers = pager.supply_page(file.vmo, offset, data)
            if readers is None:
                self._tell(file, pager.supply_bytes(file.vmo, offset, data))
            else:
                self._opened.reads.answer_missed(readers, data)
                self._opened.failures.supplied(file, (PageRange.of_bytes(offset, PAGE_SIZE),))
                self._cache.changed(file)

    async def supply_pages(self, pager: Pager, file: VmoFile, aux: Vmo, pages: SupplyPages) -> Rest | None:
        """Move pages from an aux; return None, or what remains to be waited for.

        Only a clone of a pager VMO as aux has to wait, for what it has to fetch from its own pager.

        Raises:
            VmoError: as ``Pager.supply_pages``.
        """
        access = pager.supply_pages_access(file.vmo, pages.offset, pages.length, aux, pages.aux_offset, pages.xxh3)
        told = 0
        with self._engine.change():
            if self._engine.begin(access):
                told = self._tell(file, access.result()[:_PIECES])
        if not await self._engine.wait_patiently(access, PATIENCE_SECONDS):
            return partial(self._finish_supply, file, access)
        await self._tell_slowly(file, access.result()[told:])
        return None

    async def _finish_supply(self, file: VmoFile, access: Access[list[PageRange]]) -> None:
        await self._engine.wait(access)
        await self._tell_slowly(file, access.result())

    async def op_range(
        self, pager: Pager, file: VmoFile, op: PagerOp, offset: int, length: int, data: int, reason: str = ""
    ) -> Rest | None:
        """Fail requests, let pages become dirty, or say that they are written back; return as ``supply_pages`` does.

        Raises:
            VmoError: as ``Pager.op_range``.
        """
        access = Access(pager.op_range_steps(op, file.vmo, offset, length, data, reason))
        if not await self._engine.start_patiently(access, PATIENCE_SECONDS):
            return partial(self._finish_op_range, access)
        await self._finish_op_range(access)
        return None

    async def _finish_op_range(self, access: Access[None]) -> None:
        await self._engine.wait(access)
        access.result()
        await self._engine.answer_first()

    def _tell(self, file: VmoFile, filled: list[PageRange]) -> int:
        """Tell of newly filled pages; return the number of pieces."""
        self._opened.failures.supplied(file, filled)
        self._cache.supplied(file, filled)
        return len(filled)

    async def _tell_slowly(self, file: VmoFile, filled: list[PageRange]) -> None:
        """Tell of newly filled pages, of which there may be many pieces; then let those go on who were woken."""
        work = self._engine.begin_work(file.uid, urgent=True)
        for first in range(0, len(filled), _PIECES):
            if work.is_over:
                await work.rest()
            self._tell(file, filled[first : first + _PIECES])
        await self._engine.answer_first()
