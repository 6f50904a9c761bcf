"""How far ahead the kernel reads for each open of a VMO.

The kernel has one setting for a mount. But an open file takes it over when it is opened, after OPEN was answered (Linux
6.18). So the setting is what the file that is just being opened is to have, for a moment.
"""

# How it works
#
#     an open of a VMO --> `opened`: the setting becomes that of this open, before OPEN is answered
#     an open of another VMO --> the same: each says what it wants
#     50 ms without an open --> `_set_back`: as the mount was told, for ``posix_fadvise`` and who looks into /sys
#
# What is not nice
#
# Two that open at the same moment may get what the other one was to have: an answer says nothing to us of when it
# arrives. Nothing is wrong by that. Requests name more than they need, or there are more of them.

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import trio

from vmofs_mount.linux.knobs import open_read_ahead

_log = logging.getLogger(__name__)

WHOLE_BYTES = 2**17
"""For a VMO that asks nobody for pages any more. It is what Linux does for other filesystems."""

_HELD_SECONDS = 0.05
"""How long an opener may take to go on after its answer. Later it gets what the mount was told.

2 ms are enough on a quiet machine, and not on a busy one. Since each open of a VMO says what it wants, a longer
time harms nobody.
"""


class ReadAhead:
    """The setting of one mount. ``usual_bytes`` is what the mount was told; tasks run in ``spawn``'s nursery."""

    def __init__(self, minor: int, usual_bytes: int, spawn: Callable[..., None]) -> None:
        self._usual = self._now = usual_bytes
        self._spawn = spawn
        self._opened_at = 0.0
        self._is_held = False
        self._file: int | None = None
        try:
            self._file = open_read_ahead(minor)
        except OSError as error:  # a mount by an ordinary user
            self._refused(error)

    def opened(self, wanted: int | None, *, asks_nobody: bool) -> None:
        """Let a VMO have what it wants whose OPEN is about to be answered.

        ``wanted`` None is as the mount was told, or more for a VMO that will never ask for a page (``asks_nobody``).
        """
        size = wanted or (max(self._usual, WHOLE_BYTES) if asks_nobody else self._usual)
        if size == self._now and size == self._usual:  # mostly
            return
        self._opened_at = trio.current_time()
        if size != self._now:
            self._set(size)
        if not self._is_held and self._file is not None:
            self._is_held = True
            self._spawn(self._set_back)

    async def _set_back(self) -> None:
        while (end := self._opened_at + _HELD_SECONDS) > trio.current_time():  # noqa: ASYNC110 - it moves with each open
            await trio.sleep_until(end)
        self._is_held = False
        if self._now != self._usual:
            self._set(self._usual)

    def _set(self, size: int) -> None:
        """Write the setting: 10 us."""
        if self._file is None:
            return
        try:
            os.pwrite(self._file, b"%d\n" % (size // 1024), 0)
        except OSError as error:  # the mount is gone
            os.close(self._file)
            self._file = None
            self._refused(error)
        else:
            self._now = size

    def _refused(self, error: OSError) -> None:
        _log.info("read-ahead is the same for all files: %s", error)
