"""How often requests are looked at: not more often than is of use, whatever deadlines and requests somebody has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from vmofs.core.requests.request import PageRequest
from vmofs.core.requests.system import System
from vmofs_mount.loop.engine import Engine
from vmofs_mount.loop.timeouts import Ageing
from vmofs_mount.observe.event_log import EventLog


class CountedRequests(dict[PageRequest, None]):
    """No requests, and how often they were looked at."""

    looks = 0

    def __iter__(self) -> Iterator[PageRequest]:
        self.looks += 1
        return super().__iter__()


class Answerers:
    """Those who answer within a deadline, and nobody to stand in for them."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def deadline_of(self, request: PageRequest) -> float:
        del request
        return self._deadline

    def shortest_deadline(self) -> float:
        return self._deadline

    def deliver_again(self, request: PageRequest) -> bool:
        del request
        return False


@pytest.mark.parametrize(("deadline", "looks"), [(1e-300, 100), (0.01, 100), (2.0, 10), (300.0, 4), (float("inf"), 4)])
async def test_requests_are_looked_at_as_often_as_the_shortest_deadline_needs(
    autojump_clock: MockClock, deadline: float, looks: int
) -> None:
    system = System()
    requests = system.ordinary = CountedRequests()
    engine = Engine(system, lambda _port: None, lambda _owner, _pages: None)
    ageing = Ageing(engine, EventLog(), Answerers(deadline), warn=20, stall=None)
    with trio.move_on_after(1.005):
        await ageing.run()
    assert autojump_clock.current_time() >= 1
    assert looks * 0.8 <= requests.looks <= looks
