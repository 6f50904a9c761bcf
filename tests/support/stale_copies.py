"""Somebody outside who keeps a copy of every page that he could read, as the page cache of a kernel does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from vmofs.core.requests.system import System


class Caches:
    """What somebody outside keeps of each VMO: every page that he could read, until it is said to be stale."""

    def __init__(self, system: System, pages: int) -> None:
        self.system = system
        self.pages = pages
        self.kept: dict[Any, dict[int, bytes]] = {}

    def compare(self, vmos: list[Any], written: Collection[object], read: Callable[[Any, int], bytes | None]) -> None:
        """Drop what is stale; what is left must be what the VMO shows, except to who has just ``written``."""
        stale = self.system.take_stale()
        assert stale.keys() <= set(vmos), "an object that is closed"
        for vmo in vmos:
            kept = self.kept.setdefault(vmo, {})
            for pages in stale.get(vmo, []):
                for page in [page for page in kept if page in pages]:
                    del kept[page]
            for page in range(self.pages):
                now = read(vmo, page) if page < vmo.size_pages else None
                assert vmo in written or page >= vmo.size_pages or kept.get(page, now) == now, (vmo, page)
                kept.pop(page, None)
                if now is not None:
                    kept[page] = now
