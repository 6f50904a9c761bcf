"""Where the model meets the event loop: runs accesses, wakes who waited, keeps the ports moving.

Everything here runs in the trio thread. Between two awaits nothing else runs, so the model needs no locks.
"""

# Rules
#
# 1. A call into the model that may wake somebody, queue a packet or change pages is followed by `settle` before the
#    next await. Forgetting it is a hang until the next call that does.
# 2. After an await everything is looked up again. mount/CONCURRENCY.md lists what may have changed after which.
# 3. `run` stands in no cancel scope: a parked worker may go on in another trio task. `wait` may stand in one.
# 4. A call that was started is finished, waits at a page request, or rests. `wait` waits for both of the last two.
# 5. `_wake` wakes once: it takes the token first. A woken task or worker never finds its access unfinished.
#
# How it works
#
#     start --> finished: `result`
#       |-----> waits at a PageRequest --(answered, failed, too old)--> System.woken --> looks again in `settle`
#       +-----> rests (System.resting): it has much to do --(a slice)--> goes on in `_go_on`
#
# An `Access` is a generator of the core. `token` is whoever waits for it: a worker of `Turns`, a READ (`WaitingRead`),
# which answers while it is woken, or a trio task. `settle`
# acts on the three lists that the model fills: accesses that were woken, ports that got a packet, pages that are stale.
# The data of a finished read is copied from the model in `settle`. So an eviction that comes before its handler goes on
# cannot take it away.
#
# What is not nice
#
# There are two ways to wait, `wait` and `_park`, for tasks and for workers. `kick` and `stale` are callables, because
# what they call is made later. Rule 1 is kept by hand, at each call.
#
# What else changes with this file
#
# "Who wakes whom" in mount/CONCURRENCY.md; scheduler.py and slices.py; every caller of `settle`. Tests:
# tests/trio/test_mount_turns.py, tests/fuse/test_short_turns.py.

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import trio

from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.status import VmoError
from vmofs.units import PageRange
from vmofs_mount.loop.scheduler import Turns, Worker
from vmofs_mount.loop.slices import Slices, Work

_MOST_WOKEN = 32
"""Who wait for a pager and go on in one turn: to copy a page for each takes some 30 us."""

_PATIENCE_SECONDS = 0.2
"""How long a command is carried out before it goes on in the background: the kernel has its file locked, for all."""

T = TypeVar("T")


class Engine:
    """Drives one ``System``. ``kick`` is told of ports that got a packet, ``stale`` of pages that changed or went.

    ``turns`` runs the handlers of requests; without it everything waits as trio's tasks do. ``slices`` is for what
    takes long; without it everything is done in one go.
    """

    def __init__(
        self,
        system: System,
        kick: Callable[[Port], None],
        stale: Callable[[object, list[PageRange]], None],
        turns: Turns | None = None,
        slices: Slices | None = None,
    ) -> None:
        self.system = system
        self._kick = kick
        self._stale = stale
        self._turns = turns
        self._slices = slices
        self._change = _Change(self)
        self._is_going_on = False
        self._patient: dict[Access[object], trio.Event] = {}  # calls whose rest is waited for
        system.buries_later = slices is not None

    def begin_work(self, user: Hashable, *, urgent: bool = False) -> Work:
        """Begin what may take long, for a user, as ``Slices.begin``; only with ``slices``."""
        assert self._slices is not None
        return self._slices.begin(user, urgent=urgent)

    async def run(self, access: Access[T]) -> T:
        """Carry out a call that may have to wait for a pager, and return its result. Not inside of cancel scopes.

        Raises:
            VmoError: the call failed.
        """
        if not self.start(access):
            worker = None if self._turns is None else self._turns.running
            if worker is None:
                await self.wait(access)
            else:
                await self._park(access, worker)
        return access.result()

    def start(self, access: Access[T]) -> bool:
        """Start a call and return whether it is finished; if not, ``wait`` for it."""
        done = self.begin(access)
        self.settle()
        return done

    def begin(self, access: Access[T]) -> bool:
        """Do as ``start`` does, inside of ``change``."""
        access.may_rest = self._slices is not None
        done = access.start(trio.current_time())
        # Before `settle`, which starts `_go_on` for what rests.
        if access.is_resting:
            self.system.resting[access] = None
        return done

    async def start_patiently(self, access: Access[T], seconds: float = _PATIENCE_SECONDS) -> bool:
        """Start a call, and wait for a while if it rests; return whether it is finished; if not, ``wait`` for it."""
        self.start(access)
        return await self.wait_patiently(access, seconds)

    async def wait_patiently(self, access: Access[T], seconds: float) -> bool:
        """Wait for a while for a call that was started, if it rests; return whether it is finished."""
        # Only a call that rests is waited for. One that waits for a pager may wait for the very writer of this command.
        if not access.done and access.is_resting:
            rested = self._patient[access] = trio.Event()
            with trio.move_on_after(seconds):
                await rested.wait()
            self._patient.pop(access, None)
        return access.done

    async def _go_on(self, work: Work) -> None:
        """Do what is left to do, some of it in each turn of the loop."""
        system = self.system
        try:
            while system.resting or system.woken or system.graves:
                if system.woken:  # somebody waits for each of them
                    await trio.lowlevel.checkpoint()
                else:
                    await work.rest()
                    self._let_some_go_on(work)
                    while system.graves and not work.is_over:
                        system.bury_some()
                self.settle()
        finally:
            self._is_going_on = False

    def _let_some_go_on(self, work: Work) -> None:
        """Let calls that rest go on, in turn."""
        resting = self.system.resting
        while resting and not work.is_over:
            # From the front, and back to the end: all calls that rest have their turn.
            access = next(iter(resting))
            del resting[access]
            if not access.done and access.go_on(trio.current_time()):
                _wake(access)
            if access.is_resting and not access.done:
                resting[access] = None
            elif access in self._patient:
                self._patient.pop(access).set()

    async def wait(self, access: Access[T]) -> None:
        """Wait until a call that was started is finished. It may be finished already."""
        if access.done:
            return

        def cancelled(_raise_cancel: object) -> trio.lowlevel.Abort:
            # Trio has woken the task already; `_wake` must not do it again.
            access.token = None
            return trio.lowlevel.Abort.SUCCEEDED

        access.token = trio.lowlevel.current_task()  # cheaper than an event, and there is one task for each access
        try:
            await trio.lowlevel.wait_task_rescheduled(cancelled)
        finally:
            if not access.done:  # the task is being cancelled
                with self.change():
                    access.cancel()

    async def _park(self, access: Access[T], worker: Worker) -> None:
        """Do what ``wait`` does, as a worker of ``Turns``: without a turn of the event loop when it ends."""
        access.token = worker
        try:
            await worker.park()
        finally:
            if not access.done:  # the mount ends
                with self.change():
                    access.cancel()

    def abort(self, access: Access[object], error: VmoError) -> None:
        """End a call that waits with an error."""
        with self.change():
            access.abort(error)
            _wake(access)

    def interruptible(self, interrupted: Callable[[int], None]) -> AbstractContextManager[None]:
        """Return a context in which ``interrupted`` hears of a signal for the thread whose request is being handled."""
        return nullcontext() if self._turns is None else self._turns.interruptible(interrupted)

    async def answer_first(self) -> None:
        """Let those answer first whom the last ``settle`` has woken, before the handler that calls this goes on."""
        if self._turns is not None:
            await self._turns.after_woken()

    def change(self) -> _Change:
        """Return a context in which calls of the model may wake somebody: they go on when it is left, also by an error.

        ``run``, ``start`` and ``wait`` need none.
        """
        return self._change

    def settle(self) -> None:
        """Act on what the model's last calls brought about: what leaving ``change`` does."""
        system = self.system
        # First those who wait: their answers unlock the pages for which a drop would wait.
        if system.woken:
            for access in system.run_ready(trio.current_time(), _MOST_WOKEN if self._slices is not None else None):
                _wake(access)
        # Then those who are asked. Delivering needs nothing of what follows, and a pager is waited for.
        if system.ports_ready:
            for port in system.take_ports():
                self._kick(port)
        if system.stale:
            for owner, pages in system.take_stale().items():
                self._stale(owner, pages)
        if (system.woken or system.resting or system.graves) and self._slices is not None and not self._is_going_on:
            self._is_going_on = True
            # The engine is a user of slices of its own: what it does is for all.
            self._slices.spawn(self._go_on, self._slices.begin(self))


class _Change:
    """Settles when it is left. It remembers nothing, so there is one for all."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> System:
        """Return what may be changed."""
        return self._engine.system

    def __exit__(self, *_error: object) -> None:
        """Let those go on who can."""
        self._engine.settle()


def _wake(access: Access[object]) -> None:
    """Let the one go on who waits for a finished access, if somebody does; once only."""
    waits, access.token = access.token, None
    if isinstance(waits, trio.lowlevel.Task):
        trio.lowlevel.reschedule(waits)
    elif waits is not None:
        waits.wake()  # type: ignore[attr-defined] # a Worker, or a READ
