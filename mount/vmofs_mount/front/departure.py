"""A mount that was unmounted and does not end: somebody holds it, or the unmount waits for us.

The kernel breaks the connection when the last one lets go of a mount, and by that the daemon learns of the end. Until
then it goes on serving: files may be open, or the mount may be in another mount namespace. It says in the log who.

But the kernel may be unable to break it. Who unmounts waits for the threads that give messages to the kernel, and such
a thread may wait for a page whose READ nobody is going to answer, since its reader was killed. Then the mount has to
end here.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import trio

from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.linux.holders import holders
from vmofs_mount.linux.mountinfo import MountPoint, mounts
from vmofs_mount.linux.procfs import state_of

_log = logging.getLogger(__name__)

_ROOT_INO = 1
_REST_SECONDS = 0.5
"""How long the list of mounts is not read again, however often it changes; and how often is looked at a mount that was
unmounted."""

_STUCK_SECONDS = 1.0
"""How long a message may take that waits for no page, before it is taken to wait for an unmount."""

_FIRST_LOOK_SECONDS = 0.5
_LONGEST_REST_SECONDS = 60.0
_HIDDEN = "nobody who can be seen: perhaps an overlay over it, a loop device, or who waits for somebody else"


class Departure:
    """Watches for the unmounting of one mount, and looks after it from then on.

    ``end`` is called with a reason if the mount has to end although its connection lives.
    """

    def __init__(self, mount: MountPoint, kernel: Kernel, end: Callable[[str], None]) -> None:
        self._mount = mount
        self._kernel = kernel
        self._end = end
        self._threads = trio.CapacityLimiter(3)  # of its own: others may be stuck in what they look at
        self._thread = 0
        self._changed = trio.Event()
        self._said: list[str] | None = None

    async def run(self) -> None:
        """Watch until cancelled, or until ``end`` was called."""
        await self._wait_unmounted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_holders)
            while await self._kernel_takes_messages():  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(_REST_SECONDS)
            self._end(f"unmounted, and {self._kernel.busy_threads} threads wait for pages and hold that up")
            nursery.cancel_scope.cancel()

    async def _wait_unmounted(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_changes)
            while True:
                await trio.sleep(_REST_SECONDS)
                self._changed = trio.Event()
                if not await trio.to_thread.run_sync(self._is_mounted, limiter=self._threads, abandon_on_cancel=True):
                    break
                with trio.move_on_after(_LONGEST_REST_SECONDS):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()

    async def _note_changes(self) -> None:
        """Note changes of the list of mounts.

        The kernel tells of each once, to whoever polls. One that comes just before we wait is told to the call that
        begins to wait, and lost; so all that happened until then must be looked at later than that.
        """
        with open("/proc/self/mountinfo", "rb") as mountinfo, select.epoll() as changes:  # noqa: ASYNC230, PTH123 - no disk
            changes.register(mountinfo, select.EPOLLPRI)  # it is always readable: so an epoll set of its own
            while True:
                await trio.lowlevel.wait_readable(changes.fileno())
                self._changed.set()

    def _is_mounted(self) -> bool:
        try:
            return any(mount.number == self._mount.number and mount.device == self._mount.device for mount in mounts())
        except OSError:  # no descriptors are left: it is looked again
            return True

    async def _kernel_takes_messages(self) -> bool:
        """Return whether messages get through; they do not while an unmount waits for one that is under way."""
        done = trio.Event()

        def give_one() -> None:
            self._thread = threading.get_native_id()
            self._kernel.drop_attributes(_ROOT_INO)
            self._thread = 0

        async def probe() -> None:
            await trio.to_thread.run_sync(give_one, limiter=self._threads, abandon_on_cancel=True)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            while True:
                with trio.move_on_after(_STUCK_SECONDS):
                    await done.wait()
                    return True
                if self._kernel.busy_threads > 1 and state_of(Path(f"/proc/self/task/{self._thread}")) == "D":
                    nursery.cancel_scope.cancel()
                    return False

    async def _watch_holders(self) -> None:
        rest = _FIRST_LOOK_SECONDS
        while True:
            await trio.sleep(rest)
            found = await trio.to_thread.run_sync(self._find_holders, limiter=self._threads, abandon_on_cancel=True)
            if found != self._said:
                self._said = found
                _log.info("unmounted, but still held by %s", "; ".join(found or ()) or _HIDDEN)
                rest = _FIRST_LOOK_SECONDS
            rest = min(2 * rest, _LONGEST_REST_SECONDS)

    def _find_holders(self) -> list[str] | None:
        try:
            return holders(self._mount.minor, frozenset({os.getpid()}))
        except OSError:  # no descriptors are left
            return self._said
