"""Room for new pages, where memory is limited: others are evicted when somebody wants some."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vmofs.core.pages.frames import FrameRun
from vmofs_mount.loop.engine import Engine


class Reclaim:
    """Makes room, in the middle of any call of the model. Tasks run in ``spawn``'s nursery."""

    def __init__(self, engine: Engine, spawn: Callable[..., None]) -> None:
        self._engine = engine
        self._spawn = spawn
        self._will_settle = False

    def make_room(self, pages: int, spared: Iterable[FrameRun]) -> None:
        """Evict pages, and soon drop them from the page cache: who wants memory need not have anything to settle."""
        self._engine.system.reclaim(pages, spared)
        if not self._will_settle:
            self._will_settle = True
            self._spawn(self._settle_soon)

    async def _settle_soon(self) -> None:
        self._will_settle = False
        self._engine.settle()
