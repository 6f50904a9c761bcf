"""Directories of the mount that somebody keeps locked by listing them into memory that is missing.

The kernel has a directory locked while it copies names to whoever lists it, also while it waits for a page of his
buffer. If that is a page of a VMO, it waits for the pager of that, and whoever wants to make, remove or rename anything
there waits with it, and cannot be killed; then everybody who looks up a name that the kernel does not know waits too.
Any user could lock ``aux/`` for all others, for as long as his own pager likes.

So while READs wait it is looked whether one of the directories that all users share is locked. If so, all threads are
looked at that list a directory, and the READs of the pages fail that their buffers are mappings of.

A process can keep others from looking at it: its memory is locked while another thread of it replaces a mapping whose
stores wait for a pager, or while one that shares it executes a program. So the processes of each user are looked at by
a thread of their own. If it is held up, all READs of that user fail.
"""

from __future__ import annotations

import os
import platform
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from vmofs.core.pages.ranges import RangeSet
from vmofs.status import BadStateError
from vmofs.units import PageRange
from vmofs_mount.linux.procfs import can_see_everybody, mapped_pages, state_of, user_of
from vmofs_mount.loop.engine import Engine
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.tree.inodes import Directory
from vmofs_mount.waits.locked_directories import LockedDirectories
from vmofs_mount.waits.self_deadlock import Reader

_WAIT_SECONDS = 0.25
"""How long a READ has waited before it is looked at the directories, and how often it is."""

_LOOK_SECONDS = 2.0
_REST_PER_LOOK = 4
_READS_AT_ONCE = 200
_LOOKS_OF_USER = 4
_GETDENTS = {"x86_64": {"78", "217"}, "aarch64": {"61"}, "riscv64": {"61"}}


class Listers:
    """Looks for those who keep shared directories locked, and ends the READs of the pages that they list into."""

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        device_minor: int,
        directories: Sequence[Directory],
        locked: LockedDirectories,
    ) -> None:
        self._engine = engine
        self._log = log
        self._system = engine.system
        self._device_minor = device_minor
        self._directories = directories
        self._locked = locked
        self._lookers = Lanes(_LOOKS_OF_USER)
        self._looks: defaultdict[int, set[_Look]] = defaultdict(set)  # that are under way, by user

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
                users = await self._lookers.run(None, _processes_by_user)
                async with trio.open_nursery() as nursery:
                    for uid, processes in users.items():
                        nursery.start_soon(self._look_at, uid, processes)
            rest = _REST_PER_LOOK * (trio.current_time() - began)

    async def _is_locked(self) -> bool:
        for directory in self._directories:
            if await self._locked.is_locked(directory):
                return True
        return False

    async def _look_at(self, uid: int, processes: list[int]) -> None:
        """Look at the processes of a user, and end the READs of what they list into."""
        look = _Look(processes, self._device_minor)

        def run() -> None:
            self._looks[uid].add(look)
            try:
                look.run()
            finally:
                self._looks[uid].discard(look)

        with trio.move_on_after(_LOOK_SECONDS) as scope:
            await self._lookers.run(uid, run)
        buffers: defaultdict[int, RangeSet] = defaultdict(RangeSet)
        while look.found:
            ino, pages = look.found.popleft()
            buffers[ino].add(pages)
        hidden = scope.cancelled_caught and any(other.is_held_up() for other in list(self._looks[uid]))
        if buffers or hidden:
            self._locked.blame(uid)
            await self._end_reads(buffers, uid if hidden else None)

    async def _end_reads(self, buffers: dict[int, RangeSet], uid: int | None) -> None:
        """End READs of pages that are buffers, and all of a user. They may be very many, and so may the buffers."""
        waiting = [waiter.access for request in self._system.requests for waiter in request.waiters()]
        for number, access in enumerate(waiting):
            if number % _READS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            reader = Reader.of(access)
            if access.done or reader is None:
                continue
            if reader.uid == uid or (reader.ino in buffers and buffers[reader.ino].over(reader.pages)):
                sentence = f"the pages {reader.pages} are waited for with a directory locked"
                self._log.add("listing", sentence)
                self._engine.abort(access, BadStateError(sentence))


def _processes_by_user() -> dict[int, list[int]]:
    """Return all processes by who started them. In a worker thread."""
    users: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - no paths
        if name.isdecimal():
            users.setdefault(user_of(int(name)), []).append(int(name))
    return users


class _Look:
    """A look at processes. ``found``: what threads that list a directory have as a buffer, inode numbers and pages."""

    def __init__(self, processes: list[int], device_minor: int) -> None:
        self.found: deque[tuple[int, PageRange]] = deque()
        self._processes = processes
        self._device_minor = device_minor
        self._thread = 0

    def run(self) -> None:
        """Look. In a worker thread."""
        self._thread = threading.get_native_id()
        numbers = _GETDENTS[platform.machine()]
        for process in self._processes:
            buffers = [(int(words[2], 16), int(words[3], 16)) for words in _calls(process) if words[0] in numbers]
            if buffers:
                self.found.extend(mapped_pages(process, buffers, self._device_minor))

    def is_held_up(self) -> bool:
        """Return whether a process lets nobody look at it."""
        return state_of(Path(f"/proc/self/task/{self._thread}")) == "D"


def _calls(process: int) -> Iterator[list[str]]:
    """Yield what the threads of a process wait for in the kernel."""
    try:
        for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
            with open(f"/proc/{process}/task/{thread}/syscall", encoding="ascii") as file:  # noqa: PTH123 - of all
                words = file.read().split()
            if len(words) > 3:
                yield words
    except OSError:
        return  # it has ended
