"""inotify, as far as the ports need it: to learn that a file was closed by one of those who had it open."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_IN_CLOSE = 0x08 | 0x10  # IN_CLOSE_WRITE, for those who open a FIFO read-write, and IN_CLOSE_NOWRITE
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
_LIBC = ctypes.CDLL(None, use_errno=True)


class Closed(NamedTuple):
    """The watches whose files were closed by somebody; and whether there were more than the kernel keeps."""

    numbers: set[int]
    overflow: bool


class CloseWatch:
    """Reports closes of watched files. ``fileno`` becomes readable when there are some; reading never blocks."""

    def __init__(self) -> None:
        self._fd = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return int(self._fd)

    def watch(self, fd: int) -> int:
        """Watch the file that ``fd`` has open, and return the number of the watch."""
        number = _LIBC.inotify_add_watch(self._fd, f"/proc/self/fd/{fd}".encode(), _IN_CLOSE)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        return int(number)

    def forget(self, number: int) -> None:
        """End a watch; one that ended by itself, with its file, does not matter."""
        _LIBC.inotify_rm_watch(self._fd, number)

    def closed(self) -> Closed:
        """Return what was closed since the last call."""
        numbers: set[int] = set()
        overflow = False
        while True:
            try:
                events = os.read(self._fd, 4096)
            except BlockingIOError:
                return Closed(numbers, overflow)
            position = 0
            while position < len(events):
                number, mask, _, name_bytes = _EVENT.unpack_from(events, position)
                position += _EVENT.size + name_bytes
                if mask & _IN_CLOSE:
                    numbers.add(number)
                overflow = overflow or bool(mask & _IN_Q_OVERFLOW)

    def close(self) -> None:
        """Close the descriptor; all watches end."""
        os.close(self._fd)
