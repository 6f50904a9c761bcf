"""Threads for each user: who takes all of his keeps nobody else waiting."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from vmofs_mount.loop.lanes import Lanes

LONG_SECONDS = 30.0


async def test_who_has_all_his_threads_waiting_keeps_only_himself_waiting() -> None:
    lanes, may_go_on, done = Lanes(2), threading.Event(), []

    async def wait(key: str, number: int) -> None:
        await lanes.run(key, lambda: may_go_on.wait(LONG_SECONDS))
        done.append((key, number))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(wait, "hostile", number)
        await trio.testing.wait_all_tasks_blocked()
        assert await lanes.run("other", threading.get_ident)
        assert done == []
        may_go_on.set()
    assert sorted(done) == [("hostile", number) for number in range(5)]


async def test_a_call_that_was_cancelled_keeps_its_place_until_it_has_returned() -> None:
    lanes, may_go_on = Lanes(1), threading.Event()
    with trio.move_on_after(0.05) as waiting:
        await lanes.run("a", lambda: may_go_on.wait(LONG_SECONDS))
    assert waiting.cancelled_caught
    with trio.move_on_after(0.05) as waiting:
        await lanes.run("a", threading.get_ident)
    assert waiting.cancelled_caught
    may_go_on.set()
    with trio.fail_after(LONG_SECONDS):
        await lanes.run("a", threading.get_ident)


async def test_lanes_that_are_idle_are_forgotten() -> None:
    lanes = Lanes(1)
    for key in range(100):
        await lanes.run(key, threading.get_ident)
    assert len(lanes) == 1


async def test_an_error_is_raised_where_the_call_was_made() -> None:
    def fail() -> None:
        raise OSError

    with pytest.raises(OSError, match=r"^$"):
        await Lanes(1).run("a", fail)
