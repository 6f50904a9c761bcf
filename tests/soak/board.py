"""What the processes of a soak tell each other without a word: times and versions in a file that all of them map.

A pager notes the time before it fails a request, the conductor before it stops a pager: so an error that a reader
sees has a cause on the board, or is a defect. Only the standard library is used: pagers start a thousand times.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

SLOTS = 256
"""Files that exist at a time; the key of a file is its serial number times this, and its slot."""

WORKERS = 16
PAGERS = 16
SHARED_FILES = 16
SHARED_PAGES = 64


class Board:
    """The board, mapped from a file; each number has one writer at a time.

    Attributes:
        faults: by slot, when a pager last failed a request of that file.
        trouble: by pager, until when its requests may time out.
        reading: by FIFO, since when its present pager has it open.
        busy: by worker, since when it is at its present step; 0 when it is at none.
        looked: one number, when the conductor last began to look at all pagers, and has.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        layout = [SLOTS, PAGERS, PAGERS, WORKERS, 1, SHARED_FILES * SHARED_PAGES, SHARED_FILES * SHARED_PAGES]
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            if create:
                os.ftruncate(fd, 8 * sum(layout))
            self._map = mmap.mmap(fd, 8 * sum(layout))
        finally:
            os.close(fd)
        parts: list[Any] = []  # memoryviews of floats, and of integers
        at = 0
        for number, length in enumerate(layout):
            part = memoryview(self._map)[8 * at : 8 * (at + length)]
            parts.append(part.cast("d" if number < 5 else "q"))
            at += length
        self._parts = parts
        self.faults, self.trouble, self.reading, self.busy, self.looked, self._begun, self._done = parts

    def wait_looked(self, seconds: float) -> None:
        """Wait until the conductor has looked at the pagers since now: it may have got no CPU, and know no trouble."""
        now = time.monotonic()
        while 0 < self.looked[0] < now and time.monotonic() < now + seconds:  # 0: nobody disturbs pagers
            time.sleep(0.01)

    def note_fault(self, key: int) -> None:
        """Note that a request of a file is about to be failed."""
        self.faults[key % SLOTS] = time.monotonic()

    def begin_version(self, file: int, page: int) -> int:
        """Return the number of the version that is about to be written to a page of a shared file."""
        index = file * SHARED_PAGES + page
        self._begun[index] += 1
        return int(self._begun[index])

    def end_version(self, file: int, page: int, version: int) -> None:
        """Note that a version is written: nobody who begins to read now may see an older one."""
        self._done[file * SHARED_PAGES + page] = version

    def oldest(self, file: int, page: int) -> int:
        """Return the oldest version that who begins to read a page now may see."""
        return int(self._done[file * SHARED_PAGES + page])

    def newest(self, file: int, page: int) -> int:
        """Return the newest version that who has read a page by now may have seen."""
        return int(self._begun[file * SHARED_PAGES + page])

    def reset_versions(self) -> None:
        """Start afresh, with new shared files."""
        for part in (self._begun, self._done):
            part[:] = memoryview(bytes(part.nbytes)).cast("q")

    def close(self) -> None:
        """Unmap."""
        for part in self._parts:
            part.release()
        self._map.close()
