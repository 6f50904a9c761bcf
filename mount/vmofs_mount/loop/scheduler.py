"""Which task takes requests from the kernel, and which goes on when: a stand-in for what pyfuse3's loop uses of trio.

pyfuse3 reads requests in several tasks, here called workers. One of them waits for the device while it holds a lock. On
trio's own lock, tasks and readiness a request that waits for a pager costs five turns of the event loop: the lock is
handed on, epoll armed again, the answer waits for its turn. Here one trio task, the driver, runs all workers by itself.
It takes the next request if it is there already. A handler that waits for a pager is put aside, and goes on as soon as
the pager has answered. The event loop has its turn when there is nothing else to do, or after ``_TURNS`` requests. What
that brings is measured by tools/bench.

A handler may await anything. If it awaits something of trio, the driver becomes the trio task of that worker alone
until its handler has answered, and another driver takes over.

pyfuse3 offers the seam: its asyncio mode replaces the name ``pyfuse3.trio`` in the same way.
"""

# Rules
#
# 1. A worker is in one place: it runs (`running`), or it is in `_ready`, in `_idle`, the `_holder`, parked (the one who
#    will wake it has it), or alone in a trio task. `_put` puts one that has stopped where it belongs.
# 2. `running` is None while anything else runs, a worker in a task of its own too. `Engine.run` decides by it whether
#    it may park.
# 3. At most one worker is the holder. It has pyfuse3's lock and waits for the device.
# 4. After a stop for one of ours (`_Trap`) a handler may go on in another trio task. So nothing that belongs to a trio
#    task may span one: no `trio.Lock`, no cancel scope around `park`.
# 5. The driver must never end while a worker is ready, idle or the holder. `_ensure_driver` stands wherever it could.
#
# How it works
#
# pyfuse3's loop is, for each of its tasks: take the lock, wait for the device, let the lock go, read a request, start
# another task if none waits for the lock, run the handler, begin again. The names `Lock`, `lowlevel.wait_readable` and
# `open_nursery` are looked up in `pyfuse3.trio`, so they lead here. A worker is a coroutine that the driver resumes by
# hand. What it yields is either one of ours (`_Trap`) or something of trio.
#
#     start_soon --> _ready --> running --LOCK----------> _idle ---(nobody holds the lock)---> running
#                      ^           |-----DEVICE---------> _holder -(a request is there)------> running
#                      |           |-----PARKED---------> Worker.wake --+
#                      |           |-----AFTER_OTHERS--+                |
#                      +-----------|-------------------+----------------+
#                                  +-----trio-----------> this trio task is its own; another driver takes over
#
# What is not nice
#
# `pyfuse3.trio` is replaced: a seam that pyfuse3 has for its own asyncio mode, but does not promise. This object is
# module, lock and nursery at once. There are two ways to wait for a pager, here and `Engine.wait`, because a worker is
# no task of trio. Rule 4 binds code in other rooms (the semaphore of `CommandHandle`, "not inside of cancel scopes").
#
# What else changes with this file
#
# `Engine.run` and `answer_first` in engine.py; `Idleness` in trim.py (`retire_idle`); front/session.py (`plug_in`,
# `before_wait`, MAX_TASKS); "Who takes requests" in mount/CONCURRENCY.md. tests/trio/test_mount_turns.py has a loop
# that does what pyfuse3's does: if another version of pyfuse3 does otherwise, it must too.

from __future__ import annotations

import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, suppress
from enum import Enum
from functools import partial
from types import TracebackType
from typing import TypeVar

import pyfuse3
import trio

IDLE_TASKS = 32
"""How many workers of pyfuse3 may wait for their turn; more end when they have answered. Each has a buffer of 1 MiB, of
which it has touched what its largest request filled. See ``Turns.retire_idle``."""

_TURNS = 16
"""Requests that are taken in a row, at most, before every trio task that can run has run."""


class _Trap(Enum):
    """Why a worker stopped, if it was not for something of trio."""

    LOCK = "it waits for the lock"
    DEVICE = "it has the lock and waits for a request"
    PARKED = "it waits to be woken"
    AFTER_OTHERS = "it goes on when those that were woken have gone on"


A = TypeVar("A")


class Worker:
    """One of pyfuse3's tasks."""

    __slots__ = ("_turns", "coroutine")

    def __init__(self, turns: Turns, coroutine: Coroutine[object, object, None]) -> None:
        self._turns = turns
        self.coroutine = coroutine

    async def park(self) -> None:
        """Wait until ``wake`` is called. Only for the worker that is running, outside of cancel scopes."""
        await _stop(_Trap.PARKED)

    def wake(self) -> None:
        """Let the parked worker go on, once whoever calls this has returned."""
        self._turns.woken(self)


class Turns:
    """What pyfuse3 knows as ``trio``. One of it serves one mount.

    ``spin_seconds``: how long to look for the next request before the thread sleeps.
    """

    ClosedResourceError = trio.ClosedResourceError

    def __init__(self, spin_seconds: float = 0.0) -> None:
        self._spin_seconds = spin_seconds
        self._nursery: trio.Nursery | None = None
        self._workers: set[Worker] = set()
        self._ready: deque[Worker] = deque()
        self._idle: list[Worker] = []  # wait for the lock; the last one has been used last, with its buffer
        self._holder: Worker | None = None  # has the lock and waits for the device
        self._has_driver = False
        self.running: Worker | None = None
        """The worker that the driver runs just now; None while anything else runs."""
        self._device = -1
        self._poll = select.poll()
        self._turns_left = _TURNS
        self.requests = 0
        """How many the kernel has sent."""
        self.lowlevel = types.SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=self._wait_readable,
        )

    def plug_in(self) -> None:
        """Let pyfuse3 use this. Before ``pyfuse3.main``."""
        pyfuse3.trio = self  # type: ignore[attr-defined]

    async def after_woken(self) -> None:
        """Let those go on first whom the running worker has just woken: their answers are waited for longer."""
        if self._ready and self.running is not None:
            await _stop(_Trap.AFTER_OTHERS)

    def before_wait(self, call: Callable[[], None]) -> None:
        """Call once, when a worker is about to wait for the device: what libfuse had to answer is answered then."""

        async def wait_readable(fd: int) -> None:
            self.lowlevel.wait_readable = self._wait_readable
            call()
            await self._wait_readable(fd)

        self.lowlevel.wait_readable = wait_readable

    def retire_idle(self) -> None:
        """End the workers that wait for their turn, which frees their buffers; one stays to take the next request."""
        # The holder takes the next request. Without one the last idle worker must stay for that.
        retired = self._idle if self._holder is not None else self._idle[:-1]
        self._idle = self._idle[len(retired) :]
        for worker in retired:
            self._put(worker, _run(worker.coroutine.throw, trio.ClosedResourceError()))

    # What pyfuse3 calls

    def Lock(self) -> AbstractAsyncContextManager[object]:  # noqa: N802 - trio's name
        """Return the lock by which one worker at a time waits for the device: this object."""
        return self

    async def __aenter__(self) -> None:
        """Take the lock, at once if it is free and nobody else is to go on."""
        # Not while others are ready: they have an answer to give, and a new request would come before them.
        if self.running is None or self._holder is not None or self._ready:
            await _stop(_Trap.LOCK)

    async def __aexit__(self, *_error: object) -> None:
        """Let the lock go: the worker does not wait for the device any more."""

    async def _wait_readable(self, fd: int) -> None:
        """Return when a request is there. Only with the lock, for the worker that is running."""
        # Once: pyfuse3 has one descriptor for the life of the mount.
        if fd != self._device:
            self._poll.register(fd, select.POLLIN)
            self._device = fd
        self._turns_left -= 1
        # Before it is certain that a request is there. `Slices` only looks whether the number changes.
        self.requests += 1
        if not self._turns_left or not self._poll.poll(0):
            await _stop(_Trap.DEVICE)

    def open_nursery(self) -> AbstractAsyncContextManager[Turns]:
        """Open the nursery for pyfuse3's tasks, which is this object too."""
        return _Nursery(self)

    def start_soon(self, function: Callable[..., Coroutine[object, object, None]], *args: object, name: object) -> None:
        """Start a worker."""
        del name
        worker = Worker(self, function(*args))
        # Kept so that `close` finds those that are parked: they are in no queue of ours.
        self._workers.add(worker)
        self._ready.append(worker)  # at once: pyfuse3 makes another until it sees one wait for the lock
        self._ensure_driver()

    # Opening and closing, for the nursery

    def open(self, nursery: trio.Nursery) -> None:
        """Run workers in tasks of ``nursery`` from now on."""
        self._nursery = nursery

    def close(self) -> None:
        """End all workers that are left; those that wait for a pager leave their request unanswered."""
        self._nursery = None
        while self._workers:
            self._workers.pop().coroutine.close()

    # Running workers

    def woken(self, worker: Worker) -> None:
        """Let a parked worker go on: after the running one, or in a trio task of its own if the driver is asleep."""
        # Not resumed here: the worker that wakes it is in the middle of a step, and must stop first.
        if self.running is not None:
            self._ready.append(worker)
        elif self._nursery is not None:
            # The nursery may just have ended, because the mount is gone: nobody is left to be answered, and ``close``
            # is about to end the worker. Trio has no other way to tell.
            with suppress(RuntimeError):
                self._nursery.start_soon(self._run_alone, worker)

    def _ensure_driver(self) -> None:
        if not self._has_driver and self._nursery is not None:
            self._has_driver = True
            self._nursery.start_soon(self._drive)

    async def _drive(self) -> None:
        """Run workers until all wait for pagers, or one needs this task for itself."""
        while True:
            # Those that were woken first: they have an answer to give. An idle worker only if nobody holds the lock.
            if self._ready:
                worker, error = self._ready.popleft(), None
            elif self._holder is not None:
                error = await self._wait_for_request()
                worker, self._holder = self._holder, None
            elif self._idle:
                worker, error = self._idle.pop(), None
            else:
                self._has_driver = False
                return
            self.running = worker
            try:
                trap = _run(worker.coroutine.send, None) if error is None else _run(worker.coroutine.throw, error)
            finally:
                self.running = None
            if not self._put(worker, trap):
                self._has_driver = False
                self._ensure_driver()
                # The worker has asked trio for something in the name of this task, so this is the one that must wait
                # for it.
                await self._run_alone(worker, trap)
                return

    async def _run_alone(self, worker: Worker, trap: object = None) -> None:
        """Run a worker in a trio task of its own until it stops for nothing of trio."""
        if trap is None:
            trap = _run(worker.coroutine.send, None)
        while not self._put(worker, trap):
            go_on = await _step_after(trap, worker)
            trap = go_on()
        # It is ready, idle, the holder or parked now, and no task of its own runs it any more.
        self._ensure_driver()

    def _put(self, worker: Worker, trap: object) -> bool:
        """Put a worker that has stopped where it belongs; return False if it stopped for something of trio."""
        if trap is _Trap.PARKED:
            pass  # whoever wakes it has it
        elif trap is _Trap.LOCK:
            self._idle.append(worker)
        elif trap is _Trap.DEVICE:
            self._holder = worker
        elif trap is _Trap.AFTER_OTHERS:
            self._ready.append(worker)
        # Its coroutine has ended: pyfuse3 has enough idle tasks, or the session is over.
        elif trap is None:
            self._workers.discard(worker)
        else:
            return False
        return True

    async def _wait_for_request(self) -> BaseException | None:
        """Return when a request is there, or with the error that says that none will come."""
        if not self._turns_left:
            await trio.lowlevel.checkpoint()  # and a second one below: within one turn the order is random
        self._turns_left = _TURNS
        if self._spin_seconds and await self._spin():
            return None
        try:
            await trio.lowlevel.wait_readable(self._device)
        except trio.ClosedResourceError as error:
            return error
        return None

    async def _spin(self) -> bool:
        """Look for a request again and again, after every other task had its turn; return whether there is one."""
        await trio.lowlevel.checkpoint()
        end = time.perf_counter() + self._spin_seconds
        while time.perf_counter() < end:
            if self._poll.poll(0):
                return True
        return False


class _Nursery(AbstractAsyncContextManager["Turns"]):
    """The nursery that pyfuse3 opens."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> Turns:
        self._turns.open(await self._manager.__aenter__())
        return self._turns

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(kind, error, traceback)
        finally:
            self._turns.close()


@types.coroutine
def _stop(trap: object) -> Generator[object, object, object]:
    return (yield trap)


def _run(step: Callable[[A], object], argument: A) -> object:
    """Let a coroutine go on, by its ``send`` or ``throw``; return what it stopped for, None if it has ended."""
    try:
        return step(argument)
    except StopIteration:
        return None


async def _step_after(trap: object, worker: Worker) -> Callable[[], object]:
    """Wait as a coroutine asks trio to; return what lets it go on, and returns what it stops for next."""
    try:
        # Handed to trio as if this task had asked for it. What comes back, a result or Cancelled, is the worker's.
        return partial(_run, worker.coroutine.send, await _stop(trap))
    except BaseException as error:  # noqa: BLE001 - handed on
        return partial(_run, worker.coroutine.throw, error)
