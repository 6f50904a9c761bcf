"""An open file of ``supply/``: pages are supplied by writing them. Threads may share it, and close it at any time."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from vmofs.client.pager import Data


class SupplyFile:
    """Where pages of one VMO are written to. It stays that VMO's, whatever is renamed.

    Raises:
        FileNotFoundError: No VMO of the pager has this name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._writers = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def write(self, offset: int, data: Data) -> None:
        """Supply whole pages; the last page of the file may be short.

        Raises:
            FileNotFoundError: It was closed.
            OSError: As the errno of README's table.
        """
        with self._lock:
            if self._is_closed:
                raise FileNotFoundError(errno.ENOENT, "nobody has it any more", str(self._path))
            self._writers += 1
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(self._fd, view, offset)
                offset, view = offset + written, view[written:]
        finally:
            with self._lock:
                self._writers -= 1
                self._let_go()

    def close(self) -> None:
        """Close it as soon as nobody writes any more: sooner, its number might be another file's."""
        with self._lock:
            self._is_closed = True
            self._let_go()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def _let_go(self) -> None:
        if self._is_closed and not self._writers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
