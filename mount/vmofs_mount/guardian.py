"""A second process that breaks the connection to the kernel when the daemon is killed.

A killed process goes when its last thread has gone, and its connection with it. But a thread that stores into the page
cache, or drops from it, may wait for a page whose READ the daemon has not seen yet, and cannot be killed: the READ will
never be answered, so nothing would ever end, neither thread, nor readers, nor mount. Only another process can break
the connection then, which gives everybody who waits an error.

It learns of the end by the signal that the kernel sends when the thread that made it dies (the main thread, which waits
for no page). If the daemon ends by itself the socket between them ends too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from contextlib import suppress
from typing import NoReturn

from vmofs_mount.tuning import open_abort

_PR_SET_PDEATHSIG = 1
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What is sent to all processes of a terminal or a service: while the daemon lives it needs its guardian."""


class Guardian:
    """The daemon's side. To be made in the main thread while it is the only one, and before anything is mounted."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        daemon = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(daemon, theirs.fileno())
        theirs.close()

    def guard(self, minor: int) -> None:
        """From now on break the connection of this device number if this process is killed.

        Raises:
            OSError: the file for that cannot be opened.
        """
        abort = open_abort(minor)
        try:
            socket.send_fds(self._socket, [b"1"], [abort])
        finally:
            os.close(abort)

    def close(self) -> None:
        """Let it go: the mount has ended."""
        self._socket.close()
        with suppress(ChildProcessError):  # whoever started us ignores SIGCHLD
            os.waitpid(self._pid, 0)


def _watch(daemon: int, fd: int) -> NoReturn:
    """Run in the forked process until the daemon is gone."""
    aborts: list[int] = []

    def break_connection(*_: object) -> NoReturn:
        for abort in aborts:
            os.write(abort, b"1")
        os._exit(0)

    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, break_connection)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
        _let_go_of_all_but(fd)
        os.chdir("/")
        with socket.socket(fileno=fd) as news:
            # The parent may have died before the signal was asked for; then it had mounted nothing.
            while os.getppid() == daemon:
                data, received, _, _ = socket.recv_fds(news, 1, 1)
                if not data:
                    break
                aborts += received
    finally:
        os._exit(0)


def _let_go_of_all_but(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
