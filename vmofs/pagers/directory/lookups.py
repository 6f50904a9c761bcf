"""Finds files of the mount by their keys, since names may change at any moment."""

from __future__ import annotations

import os
from contextlib import suppress

from vmofs.client.mount import PagerDirectory
from vmofs.units import PAGE_SIZE, Key
from vmofs.wire.answers import Answer
from vmofs.wire.packets import RequestLine, parse_packet

_NOWHERE = 1 << 62
"""An offset beyond the end of any file."""


class Lookups:
    """Looks for the files of one pager."""

    def __init__(self, pager: PagerDirectory) -> None:
        self._pager = pager

    def path_now(self, line: RequestLine) -> str:
        """Return the path that a file has now, which may have been renamed since the line was written."""
        if self.inode(line.path, line.key):
            return line.path
        return self.waiting(line.key) or line.path

    def waiting(self, key: int) -> str:
        """Return the path of a file if somebody waits for it, else nothing."""
        for text in self._pager.pending():
            request = parse_packet(" ".join(text.split(" ")[:5]))
            if request.key == key:
                return request.path
        return ""

    def inode(self, path: str, key: int) -> int:
        """Return the inode of a file in the mount, 0 if the path is not that of the file with this key."""
        with suppress(OSError):
            fd = os.open(self._pager.mount.path / path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if int(os.getxattr(f"/proc/self/fd/{fd}", "user.vmofs.key")) == key:
                    return os.fstat(fd).st_ino
            finally:
                os.close(fd)
        return 0

    def lives(self, key: int) -> bool:
        """Return whether there is a file with this key, with or without a name."""
        try:
            self._pager.answers().supply([Answer(_NOWHERE, Key(key), bytes(PAGE_SIZE))])
        except FileNotFoundError:
            return False
        except OSError:  # ERANGE: it is there, and not so long
            return True
        return True
