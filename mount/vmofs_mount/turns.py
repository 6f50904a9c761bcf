"""Whose turn it is to take requests from the kernel: a stand-in for what pyfuse3's loop uses of trio.

pyfuse3 reads requests in several tasks, one of which waits for the device while it holds a lock. With trio's own lock
and readiness each request costs several turns of the event loop: the lock is handed to another task, which arms epoll,
and the answer waits for its turn. Here the task that has answered a request looks whether the next one is there, and
takes it. Only when its handler has to wait, or the device is silent, does the event loop get its turn, and another task
the lock. Measured with 32 readers: see tools/BENCH.md.

pyfuse3 offers the seam: its asyncio mode replaces the name ``pyfuse3.trio`` in the same way.
"""

from __future__ import annotations

import functools
import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pyfuse3
import trio

IDLE_TASKS = 32
"""How many tasks of pyfuse3 may wait for their turn; more end when they have answered. Each has a buffer of 1 MiB, of
which it has touched what its largest request filled."""

_TURNS = 16
"""Requests that are taken in a row, at most, before every other task that can run has run."""


class Turns:
    """What pyfuse3 knows as ``trio``. One of it serves one mount.

    ``spin_seconds``: how long to look for the next request before the thread sleeps.
    """

    ClosedResourceError = trio.ClosedResourceError

    def __init__(self, spin_seconds: float = 0.0) -> None:
        self._spin_seconds = spin_seconds
        self._held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._poll = select.poll()
        self._polled: int | None = None
        self._turns_left = _TURNS
        self.lowlevel = types.SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=self._wait_readable,
        )

    def plug_in(self) -> None:
        """Let pyfuse3 use this. Before ``pyfuse3.main``."""
        pyfuse3.trio = self  # type: ignore[attr-defined]

    # What pyfuse3 calls

    def Lock(self) -> AbstractAsyncContextManager[object]:  # noqa: N802 - trio's name
        """Return the lock by which one task at a time waits for the device: this object."""
        return self

    async def __aenter__(self) -> None:
        """Take the lock; without giving anybody a turn if it is free."""
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)
            await trio.lowlevel.wait_task_rescheduled(functools.partial(self._leave, task))
        self._held = True

    async def __aexit__(self, *_error: object) -> None:
        """Let the lock go. Who waits for it gets it when this task waits or ends (``pass_on``), not before."""
        self._held = False

    def _leave(self, task: trio.lowlevel.Task, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting.remove(task)
        return trio.lowlevel.Abort.SUCCEEDED

    def pass_on(self) -> None:
        """Let another task take requests, if none does: the present one waits, or ends."""
        if self._waiting and not self._held:
            trio.lowlevel.reschedule(self._waiting.popleft())

    async def _wait_readable(self, fd: int) -> None:
        """Return when a request is there. At once if it is there already, most of the time."""
        if fd != self._polled:
            self._poll.register(fd, select.POLLIN)
            self._polled = fd
        self._turns_left -= 1
        if self._turns_left and self._poll.poll(0):
            return
        self._turns_left = _TURNS
        if self._spin_seconds and await self._spin():
            return
        await trio.lowlevel.wait_readable(fd)

    async def _spin(self) -> bool:
        """Look for a request again and again, after everybody else had his turn; return whether there is one."""
        await trio.lowlevel.checkpoint()
        end = time.perf_counter() + self._spin_seconds
        while time.perf_counter() < end:
            if self._poll.poll(0):
                return True
        return False

    def open_nursery(self) -> AbstractAsyncContextManager[_Nursery]:
        """Open a nursery for pyfuse3's tasks."""
        return _Nurseries(self)


class _Nurseries(AbstractAsyncContextManager["_Nursery"]):
    def __init__(self, turns: Turns) -> None:
        self._manager = trio.open_nursery()
        self._turns = turns

    async def __aenter__(self) -> _Nursery:
        return _Nursery(await self._manager.__aenter__(), self._turns)

    async def __aexit__(self, *error: Any) -> bool | None:  # noqa: ANN401, PYI036 - handed on
        return await self._manager.__aexit__(*error)


class _Nursery:
    """A nursery whose tasks pass the lock on whenever they wait for anything but their turn, and when they end."""

    def __init__(self, nursery: trio.Nursery, turns: Turns) -> None:
        self._nursery = nursery
        self._turns = turns

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object, name: object) -> None:
        """Start a task of pyfuse3."""
        self._nursery.start_soon(self._run, function, args, name=name)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[object, ...]) -> None:
        try:
            await _watched(function(*args), self._turns.pass_on)
        finally:
            self._turns.pass_on()


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]) -> Generator[Any, Any, None]:
    """Run a coroutine, and call ``waits`` each time that it waits."""
    step = functools.partial(coroutine.send, None)
    while True:
        try:
            trap = step()
        except StopIteration:
            return
        waits()
        try:
            step = functools.partial(coroutine.send, (yield trap))
        except BaseException as error:  # noqa: BLE001 - handed on
            step = functools.partial(coroutine.throw, error)
