"""Work that takes long: one slice at a time, user by user, and everybody else is served in between."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import trio
import trio.testing

from vmofs_mount.loop import slices
from vmofs_mount.loop.slices import Slices


class Requests:
    """What the kernel has sent."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count

    async def come(self, seconds: float, period: float) -> None:
        ends = trio.current_time() + seconds
        while trio.current_time() < ends:
            self.count += 1
            await trio.sleep(period)


async def test_users_take_turns_however_much_one_of_them_has_to_do(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    order: list[str] = []
    async with trio.open_nursery() as nursery:
        handed_out = Slices(nursery.start_soon, Requests())

        async def work(user: str, name: str) -> None:
            piece = handed_out.begin(user)
            for _ in range(2):
                await piece.rest()
                order.append(name)

        for user, name in (("hostile", "a"), ("hostile", "b"), ("hostile", "c"), ("other", "x")):
            nursery.start_soon(work, user, name)
    assert len(order) == 8
    assert order[:4].count("x") == 2


async def test_between_two_slices_the_loop_has_turns_without_any() -> None:
    turns = 0
    seen: list[int] = []

    async def count() -> None:
        nonlocal turns
        while len(seen) < 5:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        handed_out = Slices(nursery.start_soon, Requests())

        async def work(user: int) -> None:
            piece = handed_out.begin(user)
            while len(seen) < 5:
                await piece.rest()
                seen.append(turns)

        nursery.start_soon(count)
        for user in range(3):
            nursery.start_soon(work, user)
    least = slices._TURNS_BETWEEN - 1  # the order within one turn of the loop is random
    assert all(after - before >= least for before, after in pairwise(seen[:5]))


async def test_a_slice_waits_until_no_requests_come(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    requests = Requests()
    async with trio.open_nursery() as nursery:
        piece = Slices(nursery.start_soon, requests).begin("user")
        began = trio.current_time()
        nursery.start_soon(requests.come, 0.001, slices._QUIET_SECONDS / 3)
        await trio.testing.wait_all_tasks_blocked(0)
        await piece.rest()
        assert 0.001 <= trio.current_time() - began < 0.002
        began = trio.current_time()
        await piece.rest()  # nobody has asked for anything
        assert trio.current_time() == began


async def test_a_slice_waits_no_longer_than_it_must_for_who_never_stops(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    requests = Requests()
    async with trio.open_nursery() as nursery:
        piece = Slices(nursery.start_soon, requests).begin("user")
        nursery.start_soon(requests.come, 1.0, slices._QUIET_SECONDS / 3)
        await trio.testing.wait_all_tasks_blocked(0)
        began = trio.current_time()
        for _ in range(100):
            await piece.rest()
            await trio.sleep(slices.SECONDS)  # work
        waited = trio.current_time() - began - 100 * slices.SECONDS
        nursery.cancel_scope.cancel()
    assert 99 * slices._MOST_SECONDS < waited < 100 * (slices._MOST_SECONDS + 2 * slices._QUIET_SECONDS)


async def test_a_slice_that_nobody_wants_any_more_keeps_nobody_waiting(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    async with trio.open_nursery() as nursery:
        handed_out = Slices(nursery.start_soon, Requests())
        with trio.CancelScope() as scope:
            scope.cancel()
            await handed_out.begin("gone").rest()
        with trio.fail_after(1):
            await handed_out.begin("user").rest()


async def test_what_others_wait_for_does_not_wait_until_no_requests_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    requests = Requests()
    async with trio.open_nursery() as nursery:
        piece = Slices(nursery.start_soon, requests).begin("user", urgent=True)
        nursery.start_soon(requests.come, 1.0, slices._QUIET_SECONDS / 3)
        await trio.testing.wait_all_tasks_blocked(0)
        began = trio.current_time()
        for _ in range(100):
            await piece.rest()
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


def test_a_slice_is_over_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 7.0
    monkeypatch.setattr(time, "thread_time", lambda: now)
    piece = Slices(lambda *_: None, Requests()).begin("user")
    assert not piece.is_over
    now += slices.SECONDS
    assert piece.is_over
