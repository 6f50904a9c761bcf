"""Where the model meets the event loop: runs accesses, wakes who waited, keeps the ports moving, ends what is too old.

Everything here runs in the trio thread. Between two awaits nothing else runs, so the model needs no locks; after an
await everything must be looked up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import trio

from vmofs.core.access import Access
from vmofs.core.port import Port
from vmofs.core.system import System
from vmofs.status import VmoError
from vmofs.units import PageRange
from vmofs_mount.turns import Turns, Worker

_TURN_SECONDS = 0.002
"""How long work that is done in slices goes on before others have their turn."""

_MOST_WOKEN = 128
"""Who wait for a pager and go on in one turn."""

_PATIENCE_SECONDS = 0.2
"""How long a command is carried out before it goes on in the background: the kernel has its file locked, for all."""

T = TypeVar("T")


class Engine:
    """Drives one ``System``. ``kick`` is told of ports that got a packet, ``stale`` of pages that changed or went.

    ``turns`` runs the handlers of requests; without it everything waits as trio's tasks do. ``spawn`` starts a task for
    what takes long, and is done in slices; without it everything is done in one go.
    """

    def __init__(
        self,
        system: System,
        kick: Callable[[Port], None],
        stale: Callable[[object, list[PageRange]], None],
        turns: Turns | None = None,
        spawn: Callable[..., None] | None = None,
    ) -> None:
        self.system = system
        self._kick = kick
        self._stale = stale
        self._turns = turns
        self._spawn = spawn
        self._is_going_on = False
        system.buries_later = spawn is not None

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
        access.may_rest = self._spawn is not None
        done = access.start(trio.current_time())
        if access.is_resting:
            self.system.resting[access] = None
        self.settle()
        return done

    async def start_patiently(self, access: Access[T], seconds: float = _PATIENCE_SECONDS) -> bool:
        """Start a call, and wait for a while if it rests; return whether it is finished; if not, ``wait`` for it."""
        done = self.start(access)
        if not done and access.is_resting:
            ends = time.perf_counter() + seconds
            while access.is_resting and time.perf_counter() < ends:
                await trio.lowlevel.checkpoint()
        return access.done

    async def _go_on(self) -> None:
        """Do what is left to do, some of it in each turn of the loop."""
        system = self.system
        try:
            while system.resting or system.woken or system.graves:
                await trio.lowlevel.checkpoint()
                ends = time.perf_counter() + _TURN_SECONDS
                while system.resting and time.perf_counter() < ends:
                    access = next(iter(system.resting))
                    del system.resting[access]
                    if access.done:
                        continue
                    if access.go_on(trio.current_time()):
                        _wake(access)
                    elif access.is_resting:
                        system.resting[access] = None
                while system.graves and time.perf_counter() < ends:
                    system.bury_some()
                self.settle()
        finally:
            self._is_going_on = False

    async def wait(self, access: Access[T]) -> None:
        """Wait until a call that was started is finished. It may be finished already."""
        if access.done:
            return

        def cancelled(_raise_cancel: object) -> trio.lowlevel.Abort:
            access.token = None
            return trio.lowlevel.Abort.SUCCEEDED

        access.token = trio.lowlevel.current_task()  # cheaper than an event, and there is one task for each access
        try:
            await trio.lowlevel.wait_task_rescheduled(cancelled)
        finally:
            if not access.done:  # the task is being cancelled
                access.cancel()
                self.settle()

    async def _park(self, access: Access[T], worker: Worker) -> None:
        """Do what ``wait`` does, as a worker of ``Turns``: without a turn of the event loop when it ends."""
        access.token = worker
        try:
            await worker.park()
        finally:
            if not access.done:  # the mount ends
                access.cancel()
                self.settle()

    def abort(self, access: Access[object], error: VmoError) -> None:
        """End a call that waits with an error."""
        access.abort(error)
        _wake(access)
        self.settle()

    async def answer_first(self) -> None:
        """Let those answer first whom the last ``settle`` has woken, before the handler that calls this goes on."""
        if self._turns is not None:
            await self._turns.after_woken()

    def settle(self) -> None:
        """Act on what the model's last calls brought about. To be called after every one that may wake somebody."""
        system = self.system
        if system.woken:
            for access in system.run_ready(trio.current_time(), _MOST_WOKEN if self._spawn is not None else None):
                _wake(access)
        if system.ports_ready:
            for port in system.take_ports():
                self._kick(port)
        if system.stale:
            for owner, pages in system.take_stale().items():
                self._stale(owner, pages)
        if (system.woken or system.resting or system.graves) and self._spawn is not None and not self._is_going_on:
            self._is_going_on = True
            self._spawn(self._go_on)


def _wake(access: Access[object]) -> None:
    """Let the one go on who waits for a finished access, if somebody does; once only."""
    waits, access.token = access.token, None
    if isinstance(waits, Worker):
        waits.wake()
    elif isinstance(waits, trio.lowlevel.Task):
        trio.lowlevel.reschedule(waits)
