"""Which task takes requests from the kernel, and which goes on when: a stand-in for what pyfuse3's loop uses of trio.

pyfuse3 reads requests in several tasks, here called workers. One of them waits for the device while it holds a lock. On
trio's own lock, tasks and readiness a request that waits for a pager costs five turns of the event loop: the lock is
handed on, epoll armed again, the answer waits for its turn. Here one trio task, the driver, runs all workers by itself.
It takes messages from the device as long as there are any. Most are served by plain calls while they are taken. What is
handed on to libfuse, a worker of pyfuse3 reads at once. A handler that waits for a pager is put aside, and goes on as
soon as the pager has answered. The event loop has its turn when there is nothing else to do, or after ``_TURNS``
messages. What that brings is measured by tools/bench.

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
# 6. A message is taken only while there is a holder, so that what is handed on to libfuse is read at once.
#
# How it works
#
# pyfuse3's loop is, for each of its tasks: take the lock, wait for the device, let the lock go, read a request, start
# another task if none waits for the lock, run the handler, begin again. The names `Lock`, `lowlevel.wait_readable` and
# `open_nursery` are looked up in `pyfuse3.trio`, so they lead here. A worker is a coroutine that the driver resumes by
# hand. What it yields is either one of ours (`_Trap`) or something of trio. `start` makes a worker that is none of
# pyfuse3's: the handler of one request.
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
# MAX_TASKS); front/device.py, which is driven here; "Who takes requests" in mount/CONCURRENCY.md.
# tests/trio/test_mount_turns.py has a loop that does what pyfuse3's does: if another version of pyfuse3 does otherwise,
# it must too.

from __future__ import annotations

import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

import pyfuse3
import trio

IDLE_TASKS = 32
"""How many workers of pyfuse3 may wait for their turn; more end when they have answered. Each has a buffer of 1 MiB, of
which it has touched what its largest request filled. See ``Turns.retire_idle``."""

_TURNS = 32
"""Messages that are taken in a row, at most, before every trio task that can run has run."""


class _Trap(Enum):
    """Why a worker stopped, if it was not for something of trio."""

    LOCK = "it waits for the lock"
    DEVICE = "it has the lock and waits for a request"
    PARKED = "it waits to be woken"
    AFTER_OTHERS = "it goes on when those that were woken have gone on"


class Taken(Enum):
    """What became of an attempt to take a message."""

    NOTHING = "there is none"
    SERVED = "it was served, or put aside"
    HANDED_ON = "libfuse can read it"
    GONE = "no more will come"


class Source(Protocol):
    """Where messages come from."""

    unique: int
    thread: int

    def fileno(self) -> int:
        """Return a descriptor that can be read when there is a message."""

    def take(self) -> Taken:
        """Take a message, if there is one. The number of the request is ``unique`` then, ``thread`` has made it."""

    def collect(self) -> None:
        """Hand on what libfuse has answered to the message that was handed on."""


class Worker:
    """One of pyfuse3's tasks, or the handler of one request: ``unique``, which ``thread`` has made.

    ``interrupted`` is told of a signal for that thread; ``is_interrupted``: there was one, even before it waits.
    """

    __slots__ = ("_turns", "coroutine", "interrupted", "is_interrupted", "thread", "unique")

    def __init__(
        self, turns: Turns, coroutine: Coroutine[object, object, None], unique: int = 0, thread: int = 0
    ) -> None:
        self._turns = turns
        self.coroutine = coroutine
        self.unique = unique
        self.thread = thread
        self.is_interrupted = False
        self.interrupted: Callable[[int], None] | None = None

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

    def __init__(self, device: Source, spin_seconds: float = 0.0) -> None:
        self._device = device
        self._spin_seconds = spin_seconds
        self._nursery: trio.Nursery | None = None
        self._workers: set[Worker] = set()
        self._ready: deque[Worker] = deque()
        self._idle: list[Worker] = []  # wait for the lock; the last one has been used last, with its buffer
        self._holder: Worker | None = None  # has the lock and waits for the device
        self._has_driver = False
        self.running: Worker | None = None
        """The worker that the driver runs just now; None while anything else runs."""
        self._is_closing = False
        self._at_end_of_drain: dict[Callable[[], None], None] = {}
        self._is_taking = False  # the driver takes messages: whoever is woken goes on as soon as it has
        self._by_request: dict[int, Worker] = {}  # those that have a request
        self.current: Worker | None = None
        """The worker that runs just now, be it by the driver or in a task of its own."""
        self._turns_left = _TURNS
        self.requests = 0
        """How many the kernel has sent."""
        self.lowlevel = types.SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=self._notify_closing,
            wait_readable=self._wait_readable,
        )

    def plug_in(self) -> None:
        """Let pyfuse3 use this. Before ``pyfuse3.main``."""
        pyfuse3.trio = self  # type: ignore[attr-defined]

    async def after_woken(self) -> None:
        """Let those go on first whom the running worker has just woken: their answers are waited for longer."""
        if self._ready and self.running is not None:
            await _stop(_Trap.AFTER_OTHERS)

    def start(self, unique: int, handle: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run the handler of a request as soon as the message has been taken. Called while it is being taken."""
        worker = Worker(self, handle(), unique, self._device.thread)
        self._by_request[unique] = worker
        self._workers.add(worker)
        self._ready.append(worker)

    def interrupt(self, unique: int) -> bool:
        """Tell the handler of a request that its caller has a signal; return False if there is none."""
        worker = self._by_request.get(unique)
        if worker is None:
            return False
        worker.is_interrupted = True
        if worker.interrupted is not None:
            worker.interrupted(worker.thread)
        return True

    @contextmanager
    def interruptible(self, interrupted: Callable[[int], None]) -> Iterator[None]:
        """Tell ``interrupted`` the thread when the request of the worker that runs now is interrupted, or has been."""
        worker = self.current
        if worker is None:  # a task that has no request
            yield
            return
        worker.interrupted = interrupted
        if worker.is_interrupted:
            interrupted(worker.thread)
        try:
            yield
        finally:
            worker.interrupted = None

    def retire_idle(self) -> None:
        """End the workers that wait for their turn, which frees their buffers; one stays to take the next request."""
        # The holder takes the next request. Without one the last idle worker must stay for that.
        retired = self._idle if self._holder is not None else self._idle[:-1]
        self._idle = self._idle[len(retired) :]
        for worker in retired:
            self._put(worker, self._step(worker, worker.coroutine.throw, trio.ClosedResourceError()))

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
        """Return when a request was handed on. Only with the lock, for the worker that is running."""
        del fd  # libfuse's; what is waited for is the device
        await _stop(_Trap.DEVICE)

    def _notify_closing(self, fd: int) -> None:
        """Let the one end that waits for the device: pyfuse3 is about to end."""
        del fd
        self._is_closing = True
        trio.lowlevel.notify_closing(self._device.fileno())

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
        if self.running is not None or self._is_taking:
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
            error: BaseException | None = None
            # Those that were woken first: they have an answer to give. An idle worker only if nobody holds the lock.
            if self._ready:
                worker = self._ready.popleft()
            elif self._holder is not None:
                taken = await self._take_messages()
                if taken is Taken.SERVED:
                    continue
                worker, self._holder = self._holder, None
                if taken is Taken.GONE:
                    error = trio.ClosedResourceError()
                else:
                    worker.unique, worker.thread = self._device.unique, self._device.thread
                    self._by_request[worker.unique] = worker
            elif self._idle:
                worker = self._idle.pop()
            else:
                self._has_driver = False
                return
            self.running = worker
            try:
                trap = self._step(worker, worker.coroutine.send if error is None else worker.coroutine.throw, error)
            finally:
                self.running = None
                self._device.collect()
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
            trap = self._step(worker, worker.coroutine.send, None)
        while not self._put(worker, trap):
            go_on, argument = await _answer_to(trap, worker)
            trap = self._step(worker, go_on, argument)
        # It is ready, idle, the holder or parked now, and no task of its own runs it any more.
        self._ensure_driver()

    def _step(self, worker: Worker, step: Callable[[Any], object], argument: object) -> object:
        """Let a worker go on, by its ``send`` or ``throw``; return what it stopped for, None if it has ended."""
        before, self.current = self.current, worker
        try:
            return step(argument)
        except StopIteration:
            return None
        finally:
            self.current = before

    def _put(self, worker: Worker, trap: object) -> bool:
        """Put a worker that has stopped where it belongs; return False if it stopped for something of trio."""
        if trap is _Trap.PARKED:
            return True  # whoever wakes it has it
        if trap is _Trap.AFTER_OTHERS:
            self._ready.append(worker)
            return True
        if trap is _Trap.LOCK:
            self._idle.append(worker)
        elif trap is _Trap.DEVICE:
            self._holder = worker
        # Its coroutine has ended: the request is answered, pyfuse3 has enough idle tasks, or the session is over.
        elif trap is None:
            self._workers.discard(worker)
        else:
            return False
        if worker.unique:
            del self._by_request[worker.unique]
            worker.unique, worker.is_interrupted = 0, False
        return True

    async def _take_messages(self) -> Taken:
        """Take messages until one was handed on, or by one that was served a worker is ready, or no more will come."""
        while not self._is_closing:
            if not self._turns_left:
                self._end_drain()
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()  # within one turn the order is random
                self._turns_left = _TURNS
            taken = self._take()
            if taken is Taken.NOTHING:
                self._end_drain()
                await self._wait_for_message()
            elif taken is not Taken.SERVED or self._ready:
                self._end_drain()
                return taken
        return Taken.GONE

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call something once when the messages have been taken that are there, or so many that others have a turn."""
        if self._is_taking:
            self._at_end_of_drain[call] = None
        else:
            call()

    def _end_drain(self) -> None:
        while self._at_end_of_drain:
            call, _ = self._at_end_of_drain.popitem()
            call()

    def _take(self) -> Taken:
        self._is_taking = True
        try:
            taken = self._device.take()
        finally:
            self._is_taking = False
        if taken is not Taken.NOTHING:
            self.requests += 1
            self._turns_left -= 1
        return taken

    async def _wait_for_message(self) -> None:
        """Return when there is a message, or none will come."""
        self._turns_left = _TURNS
        if self._spin_seconds and await self._spin():
            return
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self._device.fileno())

    async def _spin(self) -> bool:
        """Look for a message again and again, after every other task had its turn; return whether there is one."""
        await trio.lowlevel.checkpoint()
        end = time.perf_counter() + self._spin_seconds
        poll = select.poll()
        poll.register(self._device.fileno(), select.POLLIN)
        while time.perf_counter() < end:
            if poll.poll(0):
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


async def _answer_to(trap: object, worker: Worker) -> tuple[Callable[[Any], object], object]:
    """Wait as a coroutine asks trio to; return what lets it go on, its ``send`` or ``throw``, and with what."""
    try:
        # Handed to trio as if this task had asked for it. What comes back, a result or Cancelled, is the worker's.
        return worker.coroutine.send, await _stop(trap)
    except BaseException as error:  # noqa: BLE001 - handed on
        return worker.coroutine.throw, error
