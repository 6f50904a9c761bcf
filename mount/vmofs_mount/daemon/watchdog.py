"""A second process that breaks the connection to the kernel when the daemon cannot.

A killed process goes when its last thread has gone, and its connection with it. But a thread that stores into the page
cache, or drops from it, may wait for a page whose READ the daemon has not seen yet, and cannot be killed: the READ will
never be answered, so nothing would ever end, neither thread, nor readers, nor mount. Only another process can break
the connection then, which gives everybody who waits an error.

It learns of the end by the signal that the kernel sends when the thread that made it dies (the main thread, which waits
for no page). If the daemon ends by itself the socket between them ends too.

The main thread must never wait for what only it could end. Should it do so all the same, nobody would be served any
more, and no unmount and no ``sync`` of the machine would end. So it is looked at now and then: if it has been in the
kernel for some seconds, uninterruptible, without having run in between, the connection is broken too. A daemon that is
stopped, or busy, is in another state; one that was frozen, with its control group or the machine, is told apart.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vmofs_mount.linux.knobs import open_abort

_log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What is sent to all processes of a terminal or a service: while the daemon lives it needs its guardian."""

_LOOK_SECONDS = 1.0
_HANGS_SECONDS = 4.0
"""How long the main thread may stand still in what only the daemon itself can end: FUSE, and pipes."""

_STANDS_SECONDS = 20.0
"""How long it may stand still anywhere else, as in a disk that does not answer."""

_OURS = ("fuse_", "pipe_", "anon_pipe_", "fifo_")
_FROZEN = "refrigerator"
_MOST_TOLD_BYTES = 1000


class Guardian:
    """The daemon's side. To be made in the main thread while it is the only one, and before anything is mounted."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(daemon, theirs.fileno())
        theirs.close()
        self.can_break = False
        """Whether it has what it takes."""

    def guard(self, minor: int) -> None:
        """From now on break the connection of this device number if this process is killed, or hangs.

        Raises:
            OSError: the file for that cannot be opened.
        """
        abort = open_abort(minor)
        try:
            socket.send_fds(self._socket, [b"1"], [abort])
        finally:
            os.close(abort)
        self.can_break = True

    def break_connection(self) -> None:
        """Break the connection now, if that can be done: a thread of this process waits for what nobody will answer."""
        with suppress(OSError):  # it was killed
            self._socket.send(b"1")

    def close(self) -> None:
        """Let it go: the mount has ended."""
        self._socket.shutdown(socket.SHUT_WR)
        with suppress(ChildProcessError):  # whoever started us ignores SIGCHLD
            os.waitpid(self._pid, 0)
        with self._socket, suppress(OSError):
            told = self._socket.recv(_MOST_TOLD_BYTES, socket.MSG_DONTWAIT).decode()
            if told:
                _log.error("the connection was broken: %s", told)


def _watch(daemon: int, fd: int) -> NoReturn:
    """Run in the forked process until the daemon is gone."""
    aborts: list[int] = []

    def break_connection(*_: object) -> None:
        for abort in aborts:
            os.write(abort, b"1")

    def break_and_end(*_: object) -> NoReturn:
        break_connection()
        os._exit(0)

    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, break_and_end)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
        _let_go_of_all_but(fd)
        os.chdir("/")
        standstill = Standstill(Path(f"/proc/{daemon}/task/{daemon}"))
        with socket.socket(fileno=fd) as news:
            news.settimeout(_LOOK_SECONDS)
            # The parent may have died before the signal was asked for; then it had mounted nothing.
            while os.getppid() == daemon:
                try:
                    data, received, _, _ = socket.recv_fds(news, 1, 1)
                except TimeoutError:
                    if place := standstill.look():
                        break_connection()
                        news.send(f"the main thread stood still in {place}".encode()[:_MOST_TOLD_BYTES])
                    continue
                if not data:
                    break
                aborts += received
                if not received:
                    break_connection()
    finally:
        os._exit(0)


class Standstill:
    """Finds out whether a thread, a directory in /proc, hangs in the kernel."""

    def __init__(self, thread: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._thread = thread
        self._clock = clock
        self._switches = ""
        self._since = 0.0

    def look(self) -> str:
        """Return where the thread hangs, once for each time that it does; empty if it does not. Call it often."""
        now = self._clock()
        place, fields = _text_of(self._thread / "wchan").strip(), _text_of(self._thread / "status").splitlines()
        is_stuck = any(field.startswith("State:\tD") for field in fields) and _FROZEN not in place
        switches = " ".join(field for field in fields if "ctxt_switches" in field)
        if not is_stuck or switches != self._switches:
            self._switches, self._since = switches, now
            return ""
        if now - self._since < (_HANGS_SECONDS if place.startswith(_OURS) else _STANDS_SECONDS):
            return ""
        self._since = float("inf")  # said
        return place or "the kernel"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _let_go_of_all_but(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
