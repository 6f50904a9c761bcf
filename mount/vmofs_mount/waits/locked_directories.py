"""Directories that the kernel keeps locked because something in them waits for a pager.

The kernel holds the lock of a file during WRITE, truncation and FSYNC, and while a writer waits for a page that a READ
has locked. Who removes, renames or links that file meanwhile takes the lock of its directory, and then waits for that
of the file, for as long as the pager takes. Everybody else waits for the directory: because of one user and his pager
nobody could make, or list, anything in ``vmo/``.

Nobody tells us of it. But a thread of ours that looks up a name that is not there needs the lock too. If it sleeps
uninterruptibly, which it does not while it waits for our own answer, the directory is locked. So while something in a
directory waits that could be ended, a name is looked up there again and again.

A short deadline for writes that wait for a pager would be simpler, and would break what is promised: a write waits as
long as the deadline of its pager says. Without any precaution the first user who unlinks a file that is being written
to keeps everybody from ``vmo/`` for that long; with ``deadline=0`` for ever (tests/fuse/test_directory_locks.py).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import trio

from vmofs_mount.linux.place import Place
from vmofs_mount.linux.procfs import state_of
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.tree.inodes import Directory, VmoFile

_TICK_SECONDS = 0.005
"""How often probes are looked at. A directory counts as locked if its probe is seen in the lock twice in a row."""

_REST_SECONDS = 0.01
"""How long a directory that was not locked is not looked at again, however much waits there."""

_LOOK_SECONDS = 1.0
"""How long it is looked at most whether a directory is locked: all threads may be waiting for others."""

_SPARE_SECONDS = 3.0
"""Who was just seen to have a directory locked is taken to do so again: so long only what waits in his own files is
let go. If the directory stays locked, somebody else has it locked too, and all is let go, once."""

_REST_PER_TICK = 10
"""With many that wait a tick takes long; so many times as long the next one is waited for."""


class _Probe:
    """A lookup in a directory, in a worker thread."""

    def __init__(self) -> None:
        self._thread = 0
        self.seen_in_lock = False

    def look_up(self, place: Place, path: str) -> None:
        """Look a name up that is not there."""
        with suppress(OSError), place.opened_root() as root:
            self._thread = threading.get_native_id()
            with suppress(OSError):
                os.stat(path, dir_fd=root)
            self._thread = 0

    def waits_for_lock(self) -> bool:
        """Return whether the thread sleeps uninterruptibly, and did so when this was called before."""
        seen, self.seen_in_lock = self.seen_in_lock, self._is_in_lock()
        return seen and self.seen_in_lock

    def _is_in_lock(self) -> bool:
        thread = self._thread
        return thread != 0 and state_of(Path(f"/proc/self/task/{thread}")) == "D"


class LockedDirectories:
    """Finds out whether directories are locked. Tasks run in ``spawn``'s nursery."""

    def __init__(self, place: Place, spawn: Callable[..., None]) -> None:
        self._place = place
        self._spawn = spawn
        self._names = (f".vmofs-probe-{number}" for number in itertools.count())
        self._threads = Lanes(16)
        self._watchers: dict[object, tuple[VmoFile, Callable[[], None]]] = {}
        self._probes: dict[Directory, _Probe] = {}
        self._free_until: WeakKeyDictionary[Directory, float] = WeakKeyDictionary()
        self._is_running = False
        self._blamed: dict[int, float] = {}  # user -> when he was found to have one locked
        self._spared_until = 0.0
        self.explained_at = 0.0
        """When somebody was found who had one locked."""

    def blame(self, uid: int) -> None:
        """Note that a user was seen to have a directory locked: for a while others are spared, unless it lasts."""
        now = trio.current_time()
        if not self._guilty(now):
            self._spared_until = now + _SPARE_SECONDS
        self.explained_at = self._blamed[uid] = now

    def _guilty(self, now: float) -> set[int]:
        self._blamed = {uid: since for uid, since in self._blamed.items() if now - since < _SPARE_SECONDS}
        return set(self._blamed)

    @contextmanager
    def watch(self, file: VmoFile, let_go: Callable[[], None]) -> Iterator[None]:
        """Call ``let_go`` whenever the directory of a file is found locked: something in it waits meanwhile."""
        key = object()
        self._watchers[key] = file, let_go
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run)
        try:
            yield
        finally:
            del self._watchers[key]

    async def is_locked(self, directory: Directory) -> bool:
        """Return whether somebody has a directory locked for longer than a moment."""
        probe = self._probes.get(directory) or self._start(directory)
        with trio.move_on_after(_LOOK_SECONDS):
            while self._probes.get(directory) is probe:
                await trio.sleep(_TICK_SECONDS)
                if probe.waits_for_lock():
                    return True
        return False

    async def _run(self) -> None:
        try:
            await trio.sleep(_TICK_SECONDS)  # most waits are over by then
            while self._watchers:
                began = trio.current_time()
                self._tick(began)
                await trio.sleep(max(_TICK_SECONDS, _REST_PER_TICK * (trio.current_time() - began)))
        finally:
            self._is_running = False

    def _tick(self, now: float) -> None:
        for directory, calls in self._watched().items():
            probe = self._probes.get(directory)
            if probe is None:
                if now >= self._free_until.get(directory, 0.0):
                    self._start(directory)
            elif probe.waits_for_lock():
                guilty = self._guilty(now)
                if guilty and now >= self._spared_until:
                    guilty, self._spared_until = set(), now + _SPARE_SECONDS
                for uid, call in calls:
                    if not guilty or uid in guilty:
                        call()

    def _watched(self) -> dict[Directory, list[tuple[int, Callable[[], None]]]]:
        """Return the directories in which the files have names, each with owners and what lets go."""
        watched: dict[Directory, list[tuple[int, Callable[[], None]]]] = {}
        for file, let_go in self._watchers.values():
            for parent in {entry.parent for entry in file.names if file.nlink}:
                if parent is not None:
                    watched.setdefault(parent, []).append((file.uid, let_go))
        return watched

    def _start(self, directory: Directory) -> _Probe:
        probe = self._probes[directory] = _Probe()
        self._spawn(self._look_up, probe, directory)
        return probe

    async def _look_up(self, probe: _Probe, directory: Directory) -> None:
        try:
            path = f"{directory.path}/{next(self._names)}"
            await self._threads.run(directory.uid, partial(probe.look_up, self._place, path))
        finally:
            del self._probes[directory]
            self._free_until[directory] = trio.current_time() + _REST_SECONDS
