"""When the daemon gives back what it keeps only to be fast."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from tests.support.assembled import NoDevice
from vmofs.core.pages.frames import Frames
from vmofs_mount.loop.scheduler import Turns
from vmofs_mount.loop.trim import Idleness


class Given:
    """Counts how often memory was given back, and sets how much processor time was used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.spent = 0.0
        frames, turns = Frames(), Turns(NoDevice())
        monkeypatch.setattr(time, "process_time", lambda: self.spent)
        monkeypatch.setattr(frames, "cool", self._count)
        self.idleness = Idleness(frames, turns)

    def _count(self) -> None:
        self.times += 1
        self.spent += 1.0  # what it takes is no reason to do it again


async def test_memory_is_given_back_once_after_each_time_of_work(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(monkeypatch)
    given.spent = 0.3  # the start
    nursery.start_soon(given.idleness.run)
    await trio.sleep(11)
    assert given.times == 1
    for _ in range(5):
        given.spent += 0.1
        await trio.sleep(2)
    assert given.times == 1  # it works all the time
    await trio.sleep(11)
    assert given.times == 2
    assert autojump_clock.current_time() >= 32


async def test_little_by_little_comes_to_something(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(monkeypatch)
    nursery.start_soon(given.idleness.run)
    for seconds in range(20):
        assert given.times == 0, seconds
        given.spent += 0.002
        await trio.sleep(1)
    await trio.sleep(2)
    assert given.times == 1
    assert autojump_clock.current_time() >= 22
