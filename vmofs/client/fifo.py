"""The FIFO of a port: lines of requests, waited for as long as one likes, from any thread at a time."""

from __future__ import annotations

import os
import select
from pathlib import Path

from vmofs.wire.packets import RequestLine, parse_packet

_READ_BYTES = 1 << 16


class Fifo:
    """One reader of a FIFO. Opening it, this process answers for the pager; closing it hands on what is unanswered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # returns when the daemon has opened it, which it does
        os.set_blocking(self._fd, False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._rest = b""

    def wait(self, seconds: float | None = None) -> list[RequestLine] | None:
        """Return the next requests; none if the time has passed or ``wake`` was called; None at the end.

        The end is that the pager was closed, or that the mount is gone.
        """
        events = self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
        if any(fd == self._wake for fd, _ in events):
            os.eventfd_read(self._wake)
        if all(fd == self._wake for fd, _ in events):
            return []
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [parse_packet(line) for line in lines]

    def fileno(self) -> int:
        """Return the descriptor, to be waited for."""
        return self._fd

    def wake(self) -> None:
        """Let ``wait`` return."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close it. What was not answered goes to who opens it next."""
        for fd in (self._fd, self._wake):
            os.close(fd)
