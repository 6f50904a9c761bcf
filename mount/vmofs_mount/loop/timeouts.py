"""What becomes of requests that nobody answers: another worker gets them, a line in the log, and then TIMED_OUT."""

from __future__ import annotations

import time
from typing import Protocol

import trio

from vmofs.core.requests.request import PageRequest
from vmofs_mount.loop.engine import Engine
from vmofs_mount.observe.event_log import EventLog

_TICK_SECONDS = 0.25
_TICKS_PER_DEADLINE = 20  # a deadline is kept to 5 %
_SHORTEST_TICK_SECONDS = 0.01  # whatever deadline somebody gives his pager
_REST_PER_LOOK = 9  # so that looking takes a tenth of the time, however many requests somebody leaves unanswered
_REQUESTS_PER_TURN = 500
_STALL_SECONDS = 5.0
_STALLS_PER_DEADLINE = 4


class Answerers(Protocol):
    """Those who are to answer requests."""

    def deadline_of(self, request: PageRequest) -> float:
        """Return the seconds after which a request fails; 0 stands for never."""

    def shortest_deadline(self) -> float:
        """Return the shortest deadline there is, in seconds; infinite if there is none."""

    def deliver_again(self, request: PageRequest) -> bool:
        """Deliver a request to another worker than the one that does not answer it; return whether there is one."""


class Ageing:
    """Looks at the outstanding requests of a mount now and then, oldest first.

    A request that is unanswered for ``warn`` seconds is logged; 0 stands for never.

    A request that was delivered and not answered for ``stall`` seconds (None: five, or a fourth of the deadline if that
    is less; 0: never) is delivered to another worker; the second time after twice as long, and so on, so that requests
    that simply take long are not multiplied.
    """

    def __init__(
        self, engine: Engine, log: EventLog, answerers: Answerers, *, warn: float, stall: float | None
    ) -> None:
        self._engine = engine
        self._log = log
        self._answerers = answerers
        self._warn = warn or float("inf")
        self._stall = stall
        self._warned: set[PageRequest] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        rest = 0.0
        while True:
            tick = min(_TICK_SECONDS, self._answerers.shortest_deadline() / _TICKS_PER_DEADLINE)
            await trio.sleep(max(tick, _SHORTEST_TICK_SECONDS, rest))
            rest = _REST_PER_LOOK * await self._look(trio.current_time())

    async def _look(self, now: float) -> float:
        """Look at all requests, some in each turn of the loop; return how many seconds that took."""
        requests = self._engine.system.requests
        began, took = time.perf_counter(), 0.0
        self._warned &= requests.keys()
        expired: list[PageRequest] = []
        shortest = self._answerers.shortest_deadline()
        youngest = now - min(self._warn, shortest, self._stall_seconds(shortest))
        for number, request in enumerate(list(requests)):
            if request.raised_at > youngest:
                break  # and so are all others
            if not number % _REQUESTS_PER_TURN and number:
                took += time.perf_counter() - began
                self._expire(now, expired)
                expired = []
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
            if request not in requests:
                continue  # answered meanwhile
            age = now - request.raised_at
            deadline = self._answerers.deadline_of(request)
            if self._stalls(request, now, self._stall_seconds(deadline)) and self._answerers.deliver_again(request):
                self._note("stalled", request, age)
            if deadline and age >= deadline:
                expired.append(request)
                self._note("expired", request, age)
            elif age >= self._warn and request not in self._warned:
                self._warned.add(request)
                self._note("slow", request, age)
        self._expire(now, expired)
        return took + time.perf_counter() - began

    def _expire(self, now: float, requests: list[PageRequest]) -> None:
        if requests:
            with self._engine.change() as system:
                system.expire(now, requests)

    def _stall_seconds(self, deadline: float) -> float:
        if self._stall is None:
            return min(_STALL_SECONDS, (deadline or float("inf")) / _STALLS_PER_DEADLINE)
        return self._stall or float("inf")

    def _stalls(self, request: PageRequest, now: float, seconds: float) -> bool:
        """Return whether a request was delivered too long ago; each delivery gives it twice the time."""
        times = request.deliveries
        return times > 0 and now - request.delivered_at >= seconds * 2.0 ** min(times - 1, 30)

    def _note(self, kind: str, request: PageRequest, age: float) -> None:
        packet = request.packet()
        text = f"{packet.command.name} {packet.key} {packet.offset} {packet.length}"
        self._log.add(kind, f"{text} after {age:.3f} s, delivered {request.deliveries} times")
