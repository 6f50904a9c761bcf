"""Whose turn it is to take requests: pyfuse3's loop, as it stands on ``Turns``, with a pipe for the device."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pyfuse3
import pytest
import trio
import trio.testing

from vmofs_mount.loop.scheduler import _TURNS, Taken, Turns, Worker

Handler = Callable[[bytes], Awaitable[None]]


class Pipe:
    """A device whose messages are bytes. Those that ``serve`` knows are served while they are taken."""

    def __init__(self) -> None:
        self.unique = self.thread = 0
        self.serve: dict[bytes, Callable[[], object]] = {}
        self.collected: list[bytes] = []
        self._handed_on = b""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.is_gone = False

    def fileno(self) -> int:
        return self._reading

    def take(self) -> Taken:
        if self.is_gone:
            return Taken.GONE
        try:
            message = os.read(self._reading, 1)
        except BlockingIOError:
            return Taken.NOTHING
        self.unique += 1
        self.thread = 1000 + self.unique
        if message in self.serve:
            self.serve[message]()
            return Taken.SERVED
        assert not self._handed_on, "the one before was not read"
        self._handed_on = message
        return Taken.HANDED_ON

    def collect(self) -> None:
        self.collected.append(self._handed_on)

    def read(self) -> bytes:
        """Read what was handed on, as libfuse does."""
        message, self._handed_on = self._handed_on, b""
        return message

    def ask(self, requests: bytes) -> None:
        os.write(self._writing, requests)

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


class Loop:
    """The part of ``pyfuse3.main`` that reads requests, each one byte; as many tasks as are needed."""

    def __init__(self, spin_seconds: float = 0.0) -> None:
        self.device = Pipe()
        self.turns = Turns(self.device, spin_seconds)
        self.lock = self.turns.Lock()
        self.readers = 0
        self.tasks = 0
        self.ending = False

    def ask(self, requests: bytes) -> None:
        self.device.ask(requests)

    async def run(self, handle: Handler) -> None:
        async with self.turns.open_nursery() as nursery:
            self.tasks += 1
            nursery.start_soon(self._session_loop, nursery, handle, name="pyfuse-01")

    async def _session_loop(self, nursery: object, handle: Handler) -> None:
        while await self._wait_readable():
            request = self.device.read()
            if not self.readers:
                self.tasks += 1
                nursery.start_soon(self._session_loop, nursery, handle, name="more")  # type: ignore[attr-defined]
            await handle(request)

    async def _wait_readable(self) -> bool:
        self.readers += 1
        try:
            async with self.lock:
                if self.ending:
                    return False
                await self.turns.lowlevel.wait_readable(self.device.fileno())
        except self.turns.ClosedResourceError:
            return False
        finally:
            self.readers -= 1
        return True

    def close(self) -> None:
        self.device.close()


@pytest.fixture
async def loop(nursery: trio.Nursery) -> AsyncIterator[Loop]:
    made = Loop()
    yield made
    nursery.cancel_scope.cancel()
    made.close()


async def nothing(_request: bytes) -> None:
    pass


class Waiting:
    """A handler whose requests ``w`` wait until they may end, in trio."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.may_end = trio.Event()

    async def handle(self, request: bytes) -> None:
        """Take a request."""
        if request == b"w":
            await self.may_end.wait()
        self.taken.append(request)


def plugged(turns: Turns) -> bool:
    return pyfuse3.trio is turns  # type: ignore[attr-defined]


def test_pyfuse3_takes_the_stand_in() -> None:
    before, turns = pyfuse3.trio, Turns(Pipe())  # type: ignore[attr-defined]
    try:
        turns.plug_in()
        assert plugged(turns)
    finally:
        pyfuse3.trio = before  # type: ignore[attr-defined]


async def test_requests_that_are_there_are_taken_in_a_row(loop: Loop, nursery: trio.Nursery) -> None:
    taken: list[bytes] = []

    async def handle(request: bytes) -> None:
        taken.append(request)
        if len(taken) == 1:
            nursery.start_soon(look)

    seen: list[int] = []

    async def look() -> None:
        seen.append(len(taken))

    loop.ask(b"x" * 10)
    nursery.start_soon(loop.run, handle)
    await trio.testing.wait_all_tasks_blocked()
    assert len(taken) == 10
    assert seen == [10]


async def test_what_libfuse_has_answered_is_collected_as_soon_as_the_worker_stops(
    loop: Loop, nursery: trio.Nursery
) -> None:
    nursery.start_soon(loop.run, nothing)
    await trio.testing.wait_all_tasks_blocked()
    loop.device.collected.clear()
    loop.ask(b"ab")
    await trio.testing.wait_all_tasks_blocked()
    assert loop.device.collected[:2] == [b"", b""], "each had been read, and nothing else was handed on before"


async def test_messages_that_are_served_while_they_are_taken_need_no_worker(loop: Loop, nursery: trio.Nursery) -> None:
    order: list[bytes] = []

    async def handle(request: bytes) -> None:
        order.append(request)

    loop.device.serve[b"p"] = lambda: order.append(b"plain")
    nursery.start_soon(loop.run, handle)
    loop.ask(b"pappb")
    await trio.testing.wait_all_tasks_blocked()
    assert order == [b"plain", b"a", b"plain", b"plain", b"b"]
    assert loop.turns.requests == 5


async def test_other_tasks_have_their_turn_after_some_messages_that_are_served_so(
    loop: Loop, nursery: trio.Nursery
) -> None:
    served: list[bytes] = []
    seen: list[int] = []

    async def look() -> None:
        while len(served) < 100:
            seen.append(len(served))
            await trio.lowlevel.checkpoint()

    loop.device.serve[b"p"] = lambda: served.append(b"p")
    loop.ask(b"p" * 100)
    nursery.start_soon(loop.run, nothing)
    nursery.start_soon(look)
    await trio.testing.wait_all_tasks_blocked()
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * _TURNS


async def test_a_handler_of_ours_runs_before_the_next_message_is_taken_and_may_wait(
    loop: Loop, nursery: trio.Nursery
) -> None:
    order: list[str] = []
    may_go_on = trio.Event()

    async def serve() -> None:
        order.append("begun")
        await may_go_on.wait()
        order.append("ended")

    loop.device.serve[b"s"] = lambda: loop.turns.start(loop.device.unique, serve)
    loop.device.serve[b"p"] = lambda: order.append("plain")
    nursery.start_soon(loop.run, nothing)
    loop.ask(b"spp")
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["begun", "plain", "plain"]
    may_go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert order[3:] == ["ended"]
    assert not loop.turns.interrupt(1), "it has ended"


async def test_who_is_woken_by_a_message_that_is_served_goes_on_before_the_next_one(
    loop: Loop, nursery: trio.Nursery
) -> None:
    order: list[bytes] = []
    parked: list[Worker] = []

    async def handle(request: bytes) -> None:
        assert loop.turns.running is not None
        parked.append(loop.turns.running)
        await loop.turns.running.park()
        order.append(request)

    loop.device.serve[b"p"] = lambda: order.append(b"plain")
    loop.device.serve[b"w"] = lambda: parked.pop().wake()
    nursery.start_soon(loop.run, handle)
    loop.ask(b"awpp")
    await trio.testing.wait_all_tasks_blocked()
    assert order == [b"a", b"plain", b"plain"]


async def test_a_request_that_waits_hears_of_a_signal_for_its_thread_even_before_it_waits(
    loop: Loop, nursery: trio.Nursery
) -> None:
    ended: list[bytes] = []

    async def handle(request: bytes) -> None:
        worker = loop.turns.current
        assert worker is not None
        if request == b"b":  # something else first
            await trio.lowlevel.checkpoint()
            assert loop.turns.current is worker, "also in a task of its own"
        with trio.CancelScope() as scope:

            def interrupted(thread: int) -> None:
                assert thread == 1000 + worker.unique
                scope.cancel()

            with loop.turns.interruptible(interrupted):
                await trio.sleep_forever()
        ended.append(request)

    nursery.start_soon(loop.run, handle)
    loop.ask(b"a")
    await trio.testing.wait_all_tasks_blocked()
    loop.device.serve[b"i"] = lambda: loop.turns.interrupt(1)
    loop.device.serve[b"j"] = lambda: loop.turns.interrupt(3)
    loop.ask(b"i")
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [b"a"]
    loop.ask(b"b")
    loop.ask(b"j")
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [b"a", b"b"]
    loop.ask(b"c")
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [b"a", b"b"], "the next request of a worker is not interrupted"


async def test_other_tasks_have_their_turn_after_some_requests(loop: Loop, nursery: trio.Nursery) -> None:
    taken: list[bytes] = []
    seen: list[int] = []

    async def handle(request: bytes) -> None:
        taken.append(request)

    async def look() -> None:
        while len(taken) < 100:
            seen.append(len(taken))
            await trio.lowlevel.checkpoint()

    loop.ask(b"x" * 100)
    nursery.start_soon(loop.run, handle)
    nursery.start_soon(look)
    await trio.testing.wait_all_tasks_blocked()
    assert len(taken) == 100
    # The event loop runs who is ready in random order, so a task may have its turn before one row and after the next.
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * _TURNS


async def test_while_a_handler_waits_another_task_takes_requests(loop: Loop, nursery: trio.Nursery) -> None:
    waiting = Waiting()
    taken = waiting.taken
    nursery.start_soon(loop.run, waiting.handle)
    loop.ask(b"wwwab")
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [b"a", b"b"]
    loop.ask(b"c")
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [b"a", b"b", b"c"]
    waiting.may_end.set()
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [b"a", b"b", b"c", b"w", b"w", b"w"]
    loop.ask(b"d")
    await trio.testing.wait_all_tasks_blocked()
    assert taken[-1] == b"d"


async def test_tasks_are_made_only_until_one_waits_for_its_turn(loop: Loop, nursery: trio.Nursery) -> None:
    nursery.start_soon(loop.run, nothing)
    loop.ask(b"x" * 20)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(5):
        loop.ask(b"x" * 20)
        await trio.testing.wait_all_tasks_blocked()
    assert loop.tasks == 2


async def test_idle_workers_end_when_told_to_and_requests_are_still_taken(loop: Loop, nursery: trio.Nursery) -> None:
    waiting = Waiting()
    taken = waiting.taken
    nursery.start_soon(loop.run, waiting.handle)
    for _ in range(2):
        loop.ask(b"wwwwa")
        await trio.testing.wait_all_tasks_blocked()
        loop.turns.retire_idle()  # there is none, all wait
        waiting.may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert loop.readers == 5
        loop.turns.retire_idle()
        assert loop.readers == 1
        loop.ask(b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(taken) == [b"a", b"b", b"w", b"w", b"w", b"w"]
        assert loop.readers == 2
        taken.clear()
        waiting.may_end = trio.Event()


async def test_the_idle_worker_that_takes_the_next_request_does_not_end(loop: Loop, nursery: trio.Nursery) -> None:
    taken: list[bytes] = []

    async def handle(request: bytes) -> None:
        taken.append(request)
        if request == b"w":
            loop.turns.retire_idle()  # just now nobody has the lock
            await trio.sleep_forever()

    nursery.start_soon(loop.run, handle)
    loop.ask(b"a")
    await trio.testing.wait_all_tasks_blocked()
    loop.ask(b"w")
    await trio.testing.wait_all_tasks_blocked()
    loop.ask(b"b")
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [b"a", b"w", b"b"]


async def test_when_one_task_sees_the_end_all_do(loop: Loop, nursery: trio.Nursery) -> None:
    async def handle(request: bytes) -> None:
        if request == b"w":
            await trio.lowlevel.checkpoint()
        loop.ending = request == b"e"

    ended = trio.Event()

    async def run() -> None:
        await loop.run(handle)
        ended.set()

    nursery.start_soon(run)
    loop.ask(b"wwx")
    await trio.testing.wait_all_tasks_blocked()
    loop.ask(b"e")
    await trio.testing.wait_all_tasks_blocked()
    assert ended.is_set()


async def test_who_is_woken_goes_on_before_the_next_request_is_taken(loop: Loop, nursery: trio.Nursery) -> None:
    order: list[bytes] = []
    parked: list[Worker] = []

    async def handle(request: bytes) -> None:
        worker = loop.turns.running
        assert worker is not None
        if request == b"w":
            parked.append(worker)
            await worker.park()
            order.append(b"woken")
        elif request == b"s":
            parked.pop().wake()
            await loop.turns.after_woken()
        order.append(request)

    nursery.start_soon(loop.run, handle)
    loop.ask(b"wwasb")
    await trio.testing.wait_all_tasks_blocked()
    assert order == [b"a", b"woken", b"w", b"s", b"b"]
    parked.pop().wake()  # from a task that the driver does not run
    await trio.testing.wait_all_tasks_blocked()
    assert order[5:] == [b"woken", b"w"]
    loop.ask(b"c")
    await trio.testing.wait_all_tasks_blocked()
    assert order[7:] == [b"c"]


async def test_a_worker_that_was_parked_may_wait_for_something_of_trio(loop: Loop, nursery: trio.Nursery) -> None:
    order: list[bytes] = []
    parked: list[Worker] = []

    async def handle(request: bytes) -> None:
        worker = loop.turns.running
        assert worker is not None
        if request == b"w":
            parked.append(worker)
            await worker.park()
            with trio.move_on_after(0.1) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
        elif request == b"s":
            parked.pop().wake()
        order.append(request)

    nursery.start_soon(loop.run, handle)
    loop.ask(b"wsab")
    await trio.testing.wait_all_tasks_blocked()
    assert order == [b"s", b"a", b"b"]
    await trio.sleep(1)
    assert order == [b"s", b"a", b"b", b"w"]


async def test_a_parked_worker_is_closed_at_the_end(loop: Loop) -> None:
    closed: list[bytes] = []

    async def handle(request: bytes) -> None:
        worker = loop.turns.running
        assert worker is not None
        try:
            await worker.park()
        finally:
            closed.append(request)
            worker.wake()  # comes too late

    loop.ask(b"ab")
    with trio.move_on_after(1):
        await loop.run(handle)
    assert sorted(closed) == [b"a", b"b"]
    assert loop.turns.running is None


async def test_the_end_of_the_device_is_told_to_the_worker_that_waits_for_it(loop: Loop) -> None:
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run, nothing)
            await trio.testing.wait_all_tasks_blocked()
            loop.ending = True
            loop.turns.lowlevel.notify_closing(loop.device.fileno())


async def test_when_no_more_messages_will_come_all_workers_end(loop: Loop) -> None:
    loop.device.is_gone = True
    with trio.fail_after(1):
        await loop.run(nothing)


async def test_an_error_of_a_handler_that_waited_comes_out(loop: Loop) -> None:
    async def handle(_request: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(5, "broken")

    loop.ask(b"x")
    with pytest.raises(ExceptionGroup) as caught:
        await loop.run(handle)
    assert caught.group_contains(OSError)


async def test_while_it_spins_the_daemon_does_not_sleep(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(spin_seconds=60.0)
    taken = trio.Event()
    clock = [0.0]

    def look_at_clock() -> float:
        clock[0] += 1.0
        if clock[0] == 5.0:
            loop.ask(b"x")
        return clock[0]

    async def never(_fd: int) -> None:
        pytest.fail("it sleeps")

    async def handle(_request: bytes) -> None:
        monkeypatch.undo()
        loop.turns = Turns(loop.device)
        loop.ending = True
        taken.set()

    monkeypatch.setattr(time, "perf_counter", look_at_clock)
    monkeypatch.setattr(trio.lowlevel, "wait_readable", never)
    nursery.start_soon(loop.run, handle)
    await taken.wait()
    assert 5.0 <= clock[0] <= 7.0
    await trio.testing.wait_all_tasks_blocked()
    loop.close()
