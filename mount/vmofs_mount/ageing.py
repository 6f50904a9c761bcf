"""What becomes of requests that nobody answers: first a line in the log, then TIMED_OUT."""

from __future__ import annotations

from collections.abc import Callable

import trio

from vmofs.core.request import PageRequest
from vmofs_mount.engine import Engine
from vmofs_mount.eventlog import EventLog

_TICK_SECONDS = 0.25
_TICKS_PER_DEADLINE = 20  # a deadline is kept to 5 %


class Ageing:
    """Looks at the outstanding requests of a mount now and then, oldest first.

    ``deadline_of(request)`` returns the seconds after which a request fails; 0 stands for never, as for ``warn``.
    ``shortest()`` returns the shortest deadline there is.
    """

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        warn: float,
        deadline_of: Callable[[PageRequest], float],
        shortest: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._log = log
        self._warn = warn or float("inf")
        self._deadline_of = deadline_of
        self._shortest = shortest
        self._warned: set[PageRequest] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.sleep(min(_TICK_SECONDS, self._shortest() / _TICKS_PER_DEADLINE))
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        requests = self._engine.system.requests
        self._warned &= requests.keys()
        expired = []
        youngest = now - min(self._warn, self._shortest())
        for request in requests:
            if request.raised_at > youngest:
                break  # and so are all others
            age = now - request.raised_at
            deadline = self._deadline_of(request)
            if deadline and age >= deadline:
                expired.append(request)
                self._note("expired", request, age)
            elif age >= self._warn and request not in self._warned:
                self._warned.add(request)
                self._note("slow", request, age)
        if expired:
            self._engine.system.expire(now, expired)
            self._engine.settle()

    def _note(self, kind: str, request: PageRequest, age: float) -> None:
        packet = request.packet()
        text = f"{packet.command.name} {packet.key} {packet.offset} {packet.length}"
        self._log.add(kind, f"{text} after {age:.3f} s, delivered {request.deliveries} times")
