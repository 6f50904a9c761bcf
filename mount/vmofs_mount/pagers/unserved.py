"""Requests that nobody can answer, because nobody reads the FIFO: that is said in the log, once, before long.

Who forgot to start a pager would otherwise see a program that hangs, and nothing else until the deadline.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.pagers.known_pagers import KnownPagers

_TICK_SECONDS = 0.5
_PATIENCE_SECONDS = 1.0
"""How long nobody may read before that is said: a pager that is started again needs a moment."""


class Unserved:
    """Looks now and then for pagers whose requests wait for somebody who reads them."""

    def __init__(self, known: KnownPagers, log: EventLog) -> None:
        self._known = known
        self._log = log
        self._since: dict[tuple[str, str], float] = {}  # pager and FIFO; infinite when it was said

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.sleep(_TICK_SECONDS)
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        unserved = {(pager, fifo): requests for pager, fifo, requests in self._unserved()}
        self._since = {key: self._since.get(key, now) for key in unserved}
        for key, since in self._since.items():
            if now - since >= _PATIENCE_SECONDS:
                self._since[key] = float("inf")
                pager, fifo = key
                self._log.add("unserved", f"nobody reads control/{pager}/{fifo}, and {unserved[key]} requests wait")

    def _unserved(self) -> Iterator[tuple[str, str, int]]:
        for pager in self._known:
            requests = pager.pager.tally.outstanding
            if requests:
                yield from ((pager.name, fifo, requests) for fifo in pager.ports.unread())
