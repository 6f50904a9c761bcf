"""Where the model meets the event loop: runs accesses, wakes who waited, keeps the ports moving, ends what is too old.

Everything here runs in the trio thread. Between two awaits nothing else runs, so the model needs no locks; after an
await everything must be looked up again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from vmofs.core.access import Access
from vmofs.core.port import Port
from vmofs.core.system import System
from vmofs.status import VmoError
from vmofs.units import PageRange

T = TypeVar("T")


class Engine:
    """Drives one ``System``. ``kick`` is told of ports that got a packet, ``stale`` of pages that changed or went."""

    def __init__(
        self, system: System, kick: Callable[[Port], None], stale: Callable[[object, list[PageRange]], None]
    ) -> None:
        self.system = system
        self._kick = kick
        self._stale = stale

    async def run(self, access: Access[T]) -> T:
        """Carry out a call that may have to wait for a pager, and return its result.

        Raises:
            VmoError: the call failed.
        """
        if not self.start(access):
            await self.wait(access)
        return access.result()

    def start(self, access: Access[T]) -> bool:
        """Start a call and return whether it is finished; if not, ``wait`` for it."""
        done = access.start(trio.current_time())
        self.settle()
        return done

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

    def abort(self, access: Access[object], error: VmoError) -> None:
        """End a call that waits with an error."""
        access.abort(error)
        _wake(access)
        self.settle()

    def settle(self) -> None:
        """Act on what the model's last calls brought about. To be called after every one that may wake somebody."""
        for access in self.system.run_ready(trio.current_time()):
            _wake(access)
        for port in self.system.take_ports():
            self._kick(port)
        for owner, pages in self.system.take_stale().items():
            self._stale(owner, pages)


def _wake(access: Access[object]) -> None:
    """Let the task go on that waits for a finished access, if one does; once only."""
    task, access.token = access.token, None
    if isinstance(task, trio.lowlevel.Task):
        trio.lowlevel.reschedule(task)
