"""Directories that the kernel keeps locked because a write waits for a pager.

The kernel holds the lock of a file during WRITE, truncation and FSYNC. Who removes, renames or links that file
meanwhile takes the lock of its directory, and then waits for that of the file, for as long as the pager takes.
Everybody else waits for the directory: because of one user and his pager nobody could make anything in ``vmo/``.

Nobody tells us of it. But a thread of ours that looks up a name that is not there needs the lock too. If it sleeps
uninterruptibly, which it does not while it waits for our own answer, the directory is locked.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import trio

from vmofs_mount.lanes import Lanes
from vmofs_mount.nodes import Directory

_LOCKED_SECONDS = 0.2
"""How long a lookup may take before it is looked at what it waits for."""

_FREE_SECONDS = 0.1
"""How long a directory that was not locked is not looked at again, however many writes wait there."""


class _Probe:
    """A lookup in a directory, in a worker thread."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self._thread = 0

    def look_up(self, path: str) -> None:
        """Look a name up that is not there."""
        self._thread = threading.get_native_id()
        with suppress(OSError):
            os.stat(path)  # noqa: PTH116 - a string, as there are many
        self._thread = 0

    def waits_for_lock(self) -> bool:
        """Return whether the thread sleeps uninterruptibly."""
        try:
            text = Path(f"/proc/self/task/{self._thread}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return text.rpartition(")")[2].split()[0] == "D"


class LockedDirectories:
    """Finds out whether a directory is locked. Tasks run in ``spawn``'s nursery."""

    def __init__(self, mountpoint: str, spawn: Callable[..., None]) -> None:
        self._mountpoint = mountpoint
        self._spawn = spawn
        self._names = (f".vmofs-probe-{number}" for number in itertools.count())
        self._threads = Lanes(16)
        self._probes: WeakKeyDictionary[Directory, _Probe] = WeakKeyDictionary()
        self._free_until: WeakKeyDictionary[Directory, float] = WeakKeyDictionary()

    async def is_locked(self, directory: Directory) -> bool:
        """Return whether somebody has had a directory locked for a while."""
        if trio.current_time() < self._free_until.get(directory, 0.0):
            return False
        probe = self._probes.get(directory)
        if probe is None:
            probe = self._probes[directory] = _Probe()
            self._spawn(self._run, probe, directory)
        with trio.move_on_after(_LOCKED_SECONDS):
            await probe.done.wait()
        return not probe.done.is_set() and probe.waits_for_lock()

    async def _run(self, probe: _Probe, directory: Directory) -> None:
        try:
            path = f"{self._mountpoint}/{directory.path}/{next(self._names)}"
            await self._threads.run(directory.uid, partial(probe.look_up, path))
        finally:
            probe.done.set()
            self._probes.pop(directory, None)
            self._free_until[directory] = trio.current_time() + _FREE_SECONDS
