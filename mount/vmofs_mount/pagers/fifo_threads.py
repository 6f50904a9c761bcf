"""Opening FIFOs for writing, and what is done with an open one. All of it is done in worker threads.

The kernel locks a pipe while a process reads from it or writes into it, also while the memory of that process is not
there. A process that reads a FIFO into a mapping of a VMO holds the lock for as long as the pager of that VMO takes. It
need not have opened the FIFO itself: root may have opened it and given it away, or have become another user. So
everything that is done with a FIFO may wait: opening, writing, counting what is unread, closing. Only poll takes no
lock.
"""

# Rules
#
# 1. Whatever is done with an open FIFO, but poll, is done in its own thread: open, write, FIONREAD, close.
# 2. Of `Writer` only `run` is for the thread, the other methods are for the trio thread. Neither takes a lock. What
#    both touch is a deque, numbers and flags. Each is read or written in one step under the interpreter's lock.
# 3. A side first notes what it has done, and then looks what the other one has. So one of the two sees the other.
# 4. A line is never divided: a piece is at most PIPE_BUF bytes, which the kernel writes whole or not at all.
# 5. Whoever opened a FIFO is known to exactly one side: `Attempt._lock` decides between the thread and `abandon`.
#
# How it works
#
# The thread has two states in which it sleeps. With nothing to write it reads `_wakes`, an eventfd. With no room in the
# pipe, or without a reader, it waits in poll for that too; then only `close` wakes it. To write to an eventfd lets go
# of the interpreter's lock, as a queue of the interpreter would not: a thread that was woken by one ran into that lock,
# and there were 6.3 changes of context for each miss instead of 4.1.
#
#     hand:   append the line --> is it asleep? then wake it
#     append: the same without the second step, which `wake` does when all lines of a moment are there
#     run:    asleep --> are there lines? if not, sleep
#
# `ClosedReaders` is the other half: inotify tells when a reader closes, epoll with an empty mask when the last is gone.
#
# What is not nice
#
# This relies on the interpreter's lock. A Python without it needs another `Writer`. The thread costs some 7 us for each
# miss, two changes of context and three system calls. `attaching_threads` is a global: by it LOOKUP tells our own
# opening of a FIFO from that of a reader.
#
# What else changes with this file
#
# delivery.py; `Service._looked_up` (`attaching_threads`); the FIFOs in the table of threads, and "FIFOs", in
# mount/CONCURRENCY.md. Tests: tests/trio/test_fifo_writer.py.

from __future__ import annotations

import fcntl
import logging
import os
import select
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Protocol
from weakref import finalize

import trio

from vmofs_mount.linux.inotify import CloseWatch
from vmofs_mount.linux.place import Place
from vmofs_mount.rights.identity import opened_inode

_log = logging.getLogger(__name__)

attaching_threads: set[int] = set()
"""Thread ids that are opening a FIFO through the mount: their lookups are no readers."""

_MAX_UNSENT_LINES = 64
"""Lines that a thread may have to write; more packets wait in the port."""


class Served(Protocol):
    """Who writes into a FIFO."""

    def reader_closed(self) -> None:
        """Learn that one of the readers has closed it."""

    def reader_gone(self) -> None:
        """Learn that the last reader has gone."""


class ClosedReaders:
    """Tells FIFOs when one of their readers closes, and when the last one is gone.

    One inotify instance and one epoll set for all of them. Of the former each user has 128 or so, for all programs. If
    none is left, it is told of the last reader only: ``sees_each`` is false.
    """

    def __init__(self) -> None:
        self._watch: CloseWatch | None = None
        try:
            self._watch = CloseWatch()
        except OSError as error:
            _log.warning(
                "no inotify instance is left (%s): if one of several readers of a FIFO ends, what it has not answered "
                "is delivered again after 'stall' seconds only; more are possible if root raises "
                "fs.inotify.max_user_instances",
                error.strerror,
            )
        self._gone = select.epoll()
        self._fifos: dict[int, Served] = {}  # watch number -> FIFO
        self._attached: dict[int, tuple[int | None, Served]] = {}  # descriptor -> watch number, FIFO

    @property
    def sees_each(self) -> bool:
        """Whether it learns of every reader that closes, not only of the last one."""
        return self._watch is not None

    def watch(self, fd: int) -> int | None:
        """Watch the FIFO that ``fd`` has open, and return the number of the watch. In a worker thread.

        The kernel asks whether it may be read, and so asks us for its access control list.
        """
        return None if self._watch is None else self._watch.watch(fd)

    def forget(self, number: int | None) -> None:
        """End a watch that was not added. In any thread."""
        if self._watch is not None and number is not None:
            self._watch.forget(number)

    def add(self, fd: int, number: int | None, fifo: Served) -> None:
        """Tell a FIFO from now on; what was closed before does not matter, since nothing was handed out."""
        self._attached[fd] = number, fifo
        if number is not None:
            self._fifos[number] = fifo
        self._gone.register(fd, 0)  # an empty mask still reports EPOLLERR: the last reader is gone

    def discard(self, fd: int) -> None:
        """Watch it no longer. Before the descriptor is closed."""
        # Before the descriptor is closed: the next open may get the same number.
        number, _ = self._attached.pop(fd)
        self._gone.unregister(fd)
        if number is not None:
            del self._fifos[number]
        self.forget(number)

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report_gone)
                if self._watch is not None:
                    nursery.start_soon(self._report_closed, self._watch)
        finally:
            if self._watch is not None:
                self._watch.close()
            self._gone.close()

    async def _report_closed(self, watch: CloseWatch) -> None:
        while True:
            await trio.lowlevel.wait_readable(watch.fileno())
            closed = watch.closed()
            # Who makes the kernel lose count hides what others do: then look at all.
            for number in list(self._fifos) if closed.overflow else closed.numbers:
                if number in self._fifos:
                    self._fifos[number].reader_closed()

    async def _report_gone(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._gone.fileno())
            for fd, _ in self._gone.poll(0):
                # One that was reported before it in this round may have had it detached.
                if fd in self._attached:
                    self._attached[fd][1].reader_gone()


class Writer:
    """Writes lines into an open FIFO, in a thread that runs ``run``; the other methods are for the trio thread.

    ``has_room`` is called in the thread when lines can be taken again after some were refused.

    All that the thread does after it has been woken and after it has written is done while the trio thread wants to
    go on, so it is little: what can be counted by the trio thread is counted there.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.has_room: Callable[[], None] = lambda: None
        self.handed_bytes = 0
        self.read_bytes = 0  # as it was counted the last time
        self._handed_lines = 0
        self._lines: deque[bytes] = deque()
        self._unwritten = 0  # bytes of what there is no room for, or no reader
        self._is_asked = False  # whether the thread is to do more than write
        self._refused = False
        self._counting = False
        self._closing = False
        self._asleep = False
        self._wakes = os.eventfd(0, os.EFD_CLOEXEC)
        finalize(self, os.close, self._wakes)  # neither side knows whether the other one still uses it

    @property
    def lines_total(self) -> int:
        """How many lines were written."""
        return self._handed_lines - len(self._lines)

    @property
    def has_room_for_line(self) -> bool:
        """Whether ``hand`` takes a line."""
        return len(self._lines) < _MAX_UNSENT_LINES

    def hand(self, line: bytes) -> bool:
        """Have a line written soon; return False if too many wait already."""
        if not self.append(line):
            return False
        self.wake()
        return True

    def append(self, line: bytes) -> bool:
        """Do as ``hand`` does, but the thread may sleep on until ``wake``: what is appended by then is one write."""
        if len(self._lines) >= _MAX_UNSENT_LINES:
            # Rule 3: noted first, then looked again.
            self._refused = self._is_asked = True
            if len(self._lines) >= _MAX_UNSENT_LINES:
                return False
            self._refused = False  # it wrote them before it could see that, and would not say so any more
        self._lines.append(line)
        self.handed_bytes += len(line)  # not before: then the thread could count what it has not yet
        self._handed_lines += 1
        return True

    def wake(self) -> None:
        """Have written what was appended."""
        # Rule 3. It may be woken once too often, and then finds nothing to do; never too seldom.
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._wakes, 1)

    def count_read(self) -> None:
        """Have it counted from now on what was read."""
        self._counting = self._is_asked = True

    def close(self) -> None:
        """Let the thread end. What is not written yet never will be."""
        self._closing = self._is_asked = True
        os.eventfd_write(self._wakes, 1)

    def run(self) -> None:
        """Write until it is to be closed, then close it. Then ``read_bytes`` is how much was read."""
        lines, fd, wakes = self._lines, self.fd, self._wakes
        try:
            while not self._closing:
                # Rule 3: noted before the look at the lines.
                self._asleep = True
                if not lines:  # who appends after this look wakes us
                    os.read(wakes, 8)
                self._asleep = False
                while lines:
                    piece = lines.popleft() if len(lines) == 1 else self._piece()
                    try:
                        os.write(fd, piece)
                    # No room, or nobody reads any more. For both it waits, and for being told to end.
                    except (BlockingIOError, BrokenPipeError):
                        self._write_later(piece)
                    if self._is_asked and not self._goes_on():
                        break
            self._count()
        finally:
            os.close(fd)

    def _piece(self) -> bytes:
        """Return as many lines as fit in one piece that the kernel does not divide."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= select.PIPE_BUF:
            size += len(self._lines[0])
            lines.append(self._lines.popleft())
        return b"".join(lines)

    def _write_later(self, piece: bytes) -> None:
        """Write when there is room, unless nobody reads any more, or it is to be closed."""
        # `_count` must not take it for read. Without a reader it stays there.
        self._unwritten += len(piece)
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.register(self._wakes, select.POLLIN)
        while not self._closing:
            if (self._wakes, select.POLLIN) in poll.poll():
                os.read(self._wakes, 8)  # it may have been woken once too often before this, and would not sleep
            try:
                os.write(self.fd, piece)
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return
            self._unwritten -= len(piece)
            return

    def _goes_on(self) -> bool:
        """Do what else was asked for; return whether to go on writing."""
        if self._counting:
            self._count()
        # Counting, once begun, is done after each piece.
        self._is_asked = self._counting
        if self._refused:
            self._refused = False
            self.has_room()
        return not self._closing

    def _count(self) -> None:
        unwritten = sum(map(len, list(self._lines))) + self._unwritten
        self.read_bytes = self.handed_bytes - unwritten - unread_bytes(self.fd)


class Attempt:
    """One attempt to open a FIFO for writing through the mount, in a worker thread, which may be abandoned."""

    def __init__(self, place: Place, path: str, closes: ClosedReaders) -> None:
        self._place = place
        self._path = path
        self._closes = closes
        self._lock = threading.Lock()
        self._opened: tuple[Writer, int | None] | None = None
        self._abandoned = False

    def open(self) -> None:
        """Open it.

        Raises:
            OSError: no watch or no descriptor is left.
        """
        thread = threading.get_native_id()
        # The lookup of this open is no reader's: else each attempt would cause the next.
        attaching_threads.add(thread)
        try:
            fd = self._open_in_own_mount()
        # Nobody reads (ENXIO), or the name has gone.
        except OSError:
            return
        finally:
            attaching_threads.discard(thread)
        if fd is None:
            return
        with ExitStack() as undone:
            undone.callback(os.close, fd)
            watch = self._closes.watch(fd)
            undone.callback(self._closes.forget, watch)
            opened = Writer(fd), watch
            undone.pop_all()
        with self._lock:
            self._opened = opened
            # Rule 5: either this thread sees that it was abandoned, or `abandon` returns what was opened.
            abandoned = self._abandoned
        if abandoned:
            self._closes.forget(watch)
            opened[0].close()
            opened[0].run()

    def _open_in_own_mount(self) -> int | None:
        """Open the FIFO, unless the path leads elsewhere: another mount may lie over a directory on the way."""
        with self._place.opened_root() as root:
            # O_PATH opens no FIFO. The open below is of this very file, wherever the name leads by then.
            fifo = os.open(self._path, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
        try:
            if os.fstat(fifo).st_dev != self._place.device:
                return None
            return os.open(f"/proc/self/fd/{fifo}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(fifo)

    def take(self) -> tuple[Writer, int | None] | None:
        """Return the writer and the number of the watch for the readers; None if nobody reads it, or it is gone."""
        with self._lock:
            return self._opened

    def abandon(self) -> tuple[Writer, int | None] | None:
        """Return what was opened, to be closed; what is opened later is closed at once."""
        with self._lock:
            self._abandoned = True
            return self._opened


def end_opens(place: Place, ino: int) -> None:
    """Open both ends of a FIFO that has no name any more, and close them: who waits in ``open`` for one goes on."""
    with suppress(OSError), opened_inode(place, ino) as fd:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))


def is_reader_gone(fd: int) -> bool:
    """Return whether nobody has the other end of a pipe open. Takes no lock."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def unread_bytes(fd: int) -> int:
    """Return how many bytes of a pipe nobody has read yet."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
    (count,) = struct.unpack("i", answer)
    return int(count)
