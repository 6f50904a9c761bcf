"""Directories of the mount that somebody keeps locked by listing them into memory that is missing.

The kernel has a directory locked while it copies names to whoever lists it, also while it waits for a page of his
buffer. If that is a page of a VMO, it waits for the pager of that, and whoever wants to make, remove or rename anything
there waits with it, and cannot be killed; then everybody who looks up a name that the kernel does not know waits too.
Any user could lock ``aux/`` for all others, for as long as his own pager likes.

So while READs wait it is looked whether one of the directories that all users share is locked. If so, all threads are
looked at that list a directory, and the READs of the pages fail that their buffers are mappings of.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence

import trio

from vmofs.core.access import Access
from vmofs.core.system import System
from vmofs.status import BadStateError
from vmofs.units import PageRange
from vmofs_mount.deadlocks import Reader
from vmofs_mount.lanes import Lanes
from vmofs_mount.locked_directories import LockedDirectories
from vmofs_mount.nodes import Directory
from vmofs_mount.processes import can_see_everybody, mapped_pages

_WAIT_SECONDS = 0.25
"""How long a READ has waited before it is looked at the directories, and how often it is."""

_LOOK_SECONDS = 2.0
_REST_PER_LOOK = 4
_GETDENTS = {"x86_64": {"78", "217"}, "aarch64": {"61"}, "riscv64": {"61"}}


class Listers:
    """Looks for those who keep shared directories locked. ``end(access, error)`` ends what waits for a pager."""

    def __init__(
        self,
        system: System,
        device_minor: int,
        directories: Sequence[Directory],
        locked: LockedDirectories,
        end: Callable[[Access[object], BadStateError], None],
    ) -> None:
        self._system = system
        self._device_minor = device_minor
        self._directories = directories
        self._locked = locked
        self._end = end
        self._lookers = Lanes(4)

    async def run(self) -> None:
        """Look until cancelled."""
        if not (can_see_everybody() and platform.machine() in _GETDENTS):
            return
        rest = 0.0
        while True:
            await trio.sleep(max(rest, _WAIT_SECONDS))
            began = trio.current_time()
            oldest = next(iter(self._system.requests), None)
            if oldest is not None and oldest.raised_at < began - _WAIT_SECONDS and await self._is_locked():
                with trio.move_on_after(_LOOK_SECONDS):
                    self._end_reads(await self._lookers.run(None, lambda: find_listers(self._device_minor)))
            rest = _REST_PER_LOOK * (trio.current_time() - began)

    async def _is_locked(self) -> bool:
        for directory in self._directories:
            if await self._locked.is_locked(directory):
                return True
        return False

    def _end_reads(self, buffers: list[tuple[int, PageRange]]) -> None:
        waiting = [waiter.access for request in self._system.requests for waiter in request.waiters()]
        for access in waiting:
            reader = access.origin
            if access.done or not isinstance(reader, Reader):
                continue
            if any(ino == reader.ino and pages & reader.pages for ino, pages in buffers):
                self._end(access, BadStateError(f"the pages {reader.pages} are waited for with a directory locked"))


def find_listers(device_minor: int) -> list[tuple[int, PageRange]]:
    """Return what threads that list a directory have as a buffer: inode numbers and pages. In a worker thread."""
    found: list[tuple[int, PageRange]] = []
    for process, address, size in _listing():
        found += mapped_pages(process, address, size, device_minor)
    return found


def _listing() -> Iterator[tuple[int, int, int]]:
    """Yield processes that list a directory, and the address and size of the buffer."""
    numbers = _GETDENTS[platform.machine()]
    for name in os.listdir("/proc"):  # noqa: PTH208 - no paths
        if name.isdecimal():
            for words in _calls(name):
                if words[0] in numbers:
                    yield int(name), int(words[2], 16), int(words[3], 16)


def _calls(process: str) -> Iterator[list[str]]:
    """Yield what the threads of a process wait for in the kernel."""
    try:
        for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
            with open(f"/proc/{process}/task/{thread}/syscall", encoding="ascii") as file:  # noqa: PTH123 - of all
                words = file.read().split()
            if len(words) > 3:
                yield words
    except OSError:
        return  # it has ended
