"""The sizes of files as the kernel knows them.

A READ that is answered with fewer bytes than it asks for is filled up with zeros by the kernel, which shows them as far
as it believes the file to reach. So where a file has shrunk, by any of its names or by a command, a READ that asks for
what is cut off is not answered before the kernel knows. After a truncation by the same name it learns that from the
answer to SETATTR; otherwise it is made to ask for the size. ``statx`` tells what it knows without asking us
(``AT_STATX_DONT_SYNC``).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from vmofs_mount.linux.place import Place
from vmofs_mount.rights.identity import can_open_inodes, opened_inode
from vmofs_mount.tree.inodes import VmoFile

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _AT_FORCE_SYNC, _AT_DONT_SYNC = 0x1000, 0x2000, 0x4000
_STATX_SIZE = 0x200
_STATX_BYTES, _SIZE_AT = 256, 40

_KNOW_SECONDS = 1.0
"""How long a READ waits for the kernel to learn the size; then it fails."""

_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.02
_THREADS_OF_A_USER = 4


class KernelSizes:
    """Waits for the kernel to know the sizes of files. Tasks run in ``spawn``'s nursery."""

    def __init__(self, place: Place, spawn: Callable[..., None]) -> None:
        self._place = place
        self._spawn = spawn
        self._by_number = can_open_inodes()
        self._asking: set[VmoFile] = set()
        # Who asks may be held up by a page that a READ has locked: of each user some threads at most, and others to
        # look.
        self._askers: dict[int, trio.CapacityLimiter] = defaultdict(partial(trio.CapacityLimiter, _THREADS_OF_A_USER))

    async def wait_known(self, file: VmoFile) -> bool:
        """Wait until the kernel believes a file to be no longer than it is; return False if it does not soon."""
        pause = _FIRST_PAUSE_SECONDS
        with trio.move_on_after(_KNOW_SECONDS):
            while True:
                known = await self._in_thread(file, _AT_DONT_SYNC)
                if known is None:
                    return False
                if known <= file.size_bytes:
                    return True
                self._ask(file)
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return False

    def _ask(self, file: VmoFile) -> None:
        if file not in self._asking:
            self._asking.add(file)
            self._spawn(self._have_asked, file)

    async def _have_asked(self, file: VmoFile) -> None:
        try:
            with trio.move_on_after(_KNOW_SECONDS):
                await self._in_thread(file, _AT_FORCE_SYNC, self._askers[file.uid])
        finally:
            self._asking.discard(file)

    async def _in_thread(self, file: VmoFile, sync: int, limiter: trio.CapacityLimiter | None = None) -> int | None:
        path = None if self._by_number else file.path
        look = partial(_size, self._place, file.ino, path, sync)
        return await trio.to_thread.run_sync(look, limiter=limiter, abandon_on_cancel=True)


def _size(place: Place, ino: int, path: str | None, sync: int) -> int | None:
    """Return ``st_size`` of an inode, None if it cannot be found. In a worker thread."""
    try:
        with opened_inode(place, ino) if path is None else _opened_path(place, path, ino) as fd:
            return _statx_size(fd, sync)
    except OSError:
        return None


@contextmanager
def _opened_path(place: Place, path: str, ino: int) -> Iterator[int]:
    with place.opened_root() as root:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
    try:
        if os.fstat(fd).st_ino != ino:
            raise FileNotFoundError(path)
        yield fd
    finally:
        os.close(fd)


def _statx_size(fd: int, sync: int) -> int:
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _LIBC.statx(fd, b"", _AT_EMPTY_PATH | sync, _STATX_SIZE, found) != 0:
        raise OSError(ctypes.get_errno(), "statx")
    size: int = struct.unpack_from("=Q", found, _SIZE_AT)[0]
    return size
