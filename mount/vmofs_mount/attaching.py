"""Opening FIFOs for writing, and what is done with an open one. Whatever may wait is done in worker threads.

The kernel locks a pipe while somebody reads from it or writes into it, also while his memory is not there: who reads a
FIFO into a mapping of a VMO holds the lock for as long as the pager of that VMO takes. So of a FIFO that others than
root have, everything may wait: opening, writing, counting what is unread, closing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from vmofs_mount.access import opened_inode
from vmofs_mount.inotify import CloseWatch

if TYPE_CHECKING:
    from vmofs_mount.mountinfo import Place
    from vmofs_mount.ports import Fifo

attaching_threads: set[int] = set()
"""Thread ids that are opening a FIFO through the mount: their lookups are no readers."""


class ClosedReaders:
    """Tells FIFOs when one of their readers closes; one inotify instance for all of them."""

    def __init__(self) -> None:
        self._watch = CloseWatch()
        self._fifos: dict[int, Fifo] = {}  # watch number -> FIFO
        self._numbers: dict[int, int] = {}  # descriptor -> watch number

    def watch(self, fd: int) -> int:
        """Watch the FIFO that ``fd`` has open, and return the number of the watch. In a worker thread.

        The kernel asks whether it may be read, and so asks us for its access control list.
        """
        return self._watch.watch(fd)

    def forget(self, number: int) -> None:
        """End a watch that was not added. In any thread."""
        self._watch.forget(number)

    def add(self, fd: int, number: int, fifo: Fifo) -> None:
        """Tell a FIFO from now on; what was closed before does not matter, since nothing was handed out."""
        self._fifos[number], self._numbers[fd] = fifo, number

    def discard(self, fd: int) -> None:
        """Watch it no longer."""
        number = self._numbers.pop(fd, None)
        if number is not None:
            del self._fifos[number]
            self._watch.forget(number)

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._watch.fileno())
                for number in self._watch.closed():
                    if number in self._fifos:
                        self._fifos[number].reader_closed()
        finally:
            self._watch.close()


class Attempt:
    """One attempt to open a FIFO for writing through the mount, in a worker thread, which may be abandoned."""

    def __init__(self, path: str, device: int, closes: ClosedReaders) -> None:
        self._path = path
        self._device = device
        self._closes = closes
        self._lock = threading.Lock()
        self._opened: tuple[int, int] | None = None
        self._abandoned = False

    def open(self) -> None:
        """Open it.

        Raises:
            OSError: no watch is left.
        """
        thread = threading.get_native_id()
        attaching_threads.add(thread)
        try:
            fd = self._open_in_own_mount()
        except OSError:
            return
        finally:
            attaching_threads.discard(thread)
        if fd is None:
            return
        try:
            watch = self._closes.watch(fd)
        except OSError:
            os.close(fd)
            raise
        with self._lock:
            self._opened = fd, watch
            abandoned = self._abandoned
        if abandoned:
            self._closes.forget(watch)
            os.close(fd)

    def _open_in_own_mount(self) -> int | None:
        """Open the FIFO, unless the path leads elsewhere: another mount may lie over this one, or have replaced it."""
        place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            if os.fstat(place).st_dev != self._device:
                return None
            return os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(place)

    def take(self) -> tuple[int, int] | None:
        """Return its descriptor and the number of the watch for its readers; None if nobody reads it, or it is gone."""
        with self._lock:
            return self._opened

    def abandon(self) -> tuple[int, int] | None:
        """Return what was opened, to be closed; what is opened later is closed at once."""
        with self._lock:
            self._abandoned = True
            return self._opened


def end_opens(place: Place, ino: int) -> None:
    """Open both ends of a FIFO that has no name any more, and close them: who waits in ``open`` for one goes on."""
    with suppress(OSError), opened_inode(place, ino) as fd:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))


def unread_bytes(fd: int) -> int:
    """Return how many bytes of a pipe nobody has read yet."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
    (count,) = struct.unpack("i", answer)
    return int(count)


def write_lines(fd: int, lines: Iterable[bytes]) -> tuple[int, int]:
    """Write lines one by one until the pipe is full or nobody reads it.

    Returns:
        How many were written, and how many bytes are unread.
    """
    count = 0
    try:
        for line in lines:
            os.write(fd, line)
            count += 1
    except (BlockingIOError, BrokenPipeError):
        pass
    return count, unread_bytes(fd)


def count_and_close(fd: int) -> int:
    """Close a pipe, and return how many bytes nobody had read."""
    try:
        return unread_bytes(fd)
    finally:
        os.close(fd)
