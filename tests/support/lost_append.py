"""Shows what Linux 6.18 does to a file of any FUSE filesystem that is written through a mapping and made longer.

``python -m tests.support.lost_append PATH SECONDS [msync]`` stores into the last page of a new file through a mapping
and appends, over and over, while a thread has the kernel write back what is dirty. It counts how often the
mapping has not what was appended, and how often the filesystem has not. With ``msync`` the mapping is written back
before each append.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
import threading
import time
from dataclasses import dataclass

_SYNC_FILE_RANGE_WRITE = 2
_PAGE = 4096
_FILE_BYTES = 16 * _PAGE
_STORED, _APPENDED = b"m" * 50, b"A" * 5000


@dataclass(frozen=True)
class Lost:
    """How many appends there were, and of how many what was appended is missing where."""

    appends: int
    in_mapping: int
    in_filesystem: int


def count_lost(path: str, seconds: float, *, msync: bool) -> Lost:
    """Make a file at ``path`` and use it for some seconds."""
    generator = random.Random(1)  # noqa: S311 - no secret
    appends = in_mapping = in_filesystem = 0
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.ftruncate(fd, _FILE_BYTES)
    appending = os.open(path, os.O_RDWR | os.O_APPEND)
    done = threading.Event()
    writing_back = threading.Thread(target=_write_back, args=(path, done))
    writing_back.start()
    try:
        with mmap.mmap(fd, _FILE_BYTES) as mapping:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                appends += 1
                size = 3 * _PAGE + generator.randrange(100, 3000)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, size)
                mapping[size - len(_STORED) : size] = _STORED
                if msync:
                    mapping.flush()
                os.write(appending, _APPENDED)
                start, end = size - len(_STORED), size + len(_APPENDED)
                if mapping[start:end] != _STORED + _APPENDED:
                    in_mapping += 1
                    in_filesystem += _read_direct(path)[start:end] != _STORED + _APPENDED
    finally:
        done.set()
        writing_back.join()
        os.close(appending)
        os.close(fd)
    return Lost(appends, in_mapping, in_filesystem)


def _write_back(path: str, done: threading.Event) -> None:
    libc = ctypes.CDLL(None)
    fd = os.open(path, os.O_RDWR)
    while not done.is_set():
        libc.sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(0), _SYNC_FILE_RANGE_WRITE)
    os.close(fd)


def _read_direct(path: str) -> bytes:
    """Return what the filesystem has, whatever the page cache has."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _FILE_BYTES) as buffer:
            return buffer[: os.preadv(fd, [buffer], 0)]
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.stdout.write(f"{count_lost(sys.argv[1], float(sys.argv[2]), msync='msync' in sys.argv)}\n")
