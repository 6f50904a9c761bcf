"""The ways in which a soak reads and writes files.

Mappings are touched by the kernel on our behalf, in ``write`` from them and ``readv`` into them: the page fault is the
same, but one that fails is EFAULT instead of SIGBUS.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.opening import opened
from vmofs.units import PAGE_SIZE

T = TypeVar("T")

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MS_SYNC = 4
_SENDFILE_TRIES = 10


@contextmanager
def mapped(fd: int, first: int, end: int, flags: int = mmap.MAP_SHARED, *, write: bool = False) -> Iterator[int]:
    """Map the pages in which the bytes ``[first, end)`` lie; return the address of the first page."""
    start = first - first % PAGE_SIZE
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    address = _LIBC.mmap(None, end - start, prot, flags, fd, start)
    if address in {None, ctypes.c_void_p(-1).value}:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        yield address
    finally:
        _LIBC.munmap(address, end - start)


def _memory(address: int, length: int) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * length).from_address(address)


def _load(address: int, length: int) -> bytes:
    """Copy bytes out of a mapping; raises EFAULT where a page cannot be had."""
    copy = os.memfd_create("soak")
    try:
        done = 0
        while done < length:
            done += os.write(copy, _memory(address + done, length - done))
        return os.pread(copy, length, 0)
    finally:
        os.close(copy)


def _store(address: int, data: bytes) -> None:
    """Copy bytes into a mapping; raises EFAULT where a page cannot be had."""
    copy = os.memfd_create("soak")
    try:
        os.pwrite(copy, data, 0)
        done = 0
        while done < len(data):
            done += os.preadv(copy, [_memory(address + done, len(data) - done)], done)
    finally:
        os.close(copy)


# Each reads up to the end of the file.


def _pread(fd: int, offset: int, length: int) -> bytes:
    pieces = []
    while length and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


def _preadv(fd: int, offset: int, length: int) -> bytes:
    parts = [bytearray(length // 3), bytearray(length - length // 3)]
    count = os.preadv(fd, parts, offset)
    return b"".join(parts)[:count] + (_pread(fd, offset + count, length - count) if 0 < count < length else b"")


def _direct(fd: int, offset: int, length: int) -> bytes:
    start = offset - offset % PAGE_SIZE
    end = -(-(offset + length) // PAGE_SIZE) * PAGE_SIZE
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, end - start) as buffer:
            count = 0
            while count < end - start:
                with memoryview(buffer) as view, view[count:] as rest:
                    piece = os.preadv(again, [rest], start + count)
                count += piece
                if not piece or count % PAGE_SIZE:
                    break
            return buffer[:count][offset - start : offset - start + length]
    finally:
        os.close(again)


def _mapping(fd: int, offset: int, length: int, flags: int = mmap.MAP_SHARED) -> bytes:
    length = min(length, os.fstat(fd).st_size - offset)
    if length <= 0:
        return b""
    with mapped(fd, offset, offset + length, flags) as address:
        return _load(address + offset % PAGE_SIZE, length)


def _private_mapping(fd: int, offset: int, length: int) -> bytes:
    return _mapping(fd, offset, length, mmap.MAP_PRIVATE)


def _sendfile(fd: int, offset: int, length: int) -> bytes:
    """Copy inside the kernel. Nothing, once, is no end: a page was dropped on its way, since a write of it failed."""
    copy, tries = os.memfd_create("soak"), _SENDFILE_TRIES
    try:
        while length and tries:
            count = os.sendfile(copy, fd, offset, length)
            offset, length = offset + count, length - count
            tries = _SENDFILE_TRIES if count else tries - 1
        return os.pread(copy, os.fstat(copy).st_size, 0)
    finally:
        os.close(copy)


READS: dict[str, Callable[[int, int, int], bytes]] = {
    "pread": _pread,
    "preadv": _preadv,
    "O_DIRECT": _direct,
    "mmap": _mapping,
    "private mmap": _private_mapping,
    "sendfile": _sendfile,
}


def _pwrite(fd: int, offset: int, data: bytes) -> int:
    return os.pwrite(fd, data, offset)


def _pwritev(fd: int, offset: int, data: bytes) -> int:
    return os.pwritev(fd, [data[: len(data) // 3], data[len(data) // 3 :]], offset)


def _store_and_sync(fd: int, offset: int, data: bytes) -> int:
    """Write through a mapping, inside the file, and write it back."""
    with mapped(fd, offset, offset + len(data), write=True) as address:
        try:
            _store(address + offset % PAGE_SIZE, data)
        finally:
            if _LIBC.msync(address, offset % PAGE_SIZE + len(data), _MS_SYNC):
                raise OSError(ctypes.get_errno(), "msync")
    return len(data)


WRITES: dict[str, Callable[[int, int, bytes], int]] = {
    "pwrite": _pwrite,
    "pwritev": _pwritev,
    "mmap": _store_and_sync,
}


class Held:
    """A file that is kept open and mapped, whatever becomes of its size and its pages."""

    def __init__(self, path: Path, flags: int, most_bytes: int) -> None:
        self._fd = os.open(path, flags)
        self._resources = ExitStack()
        self._address = self._resources.enter_context(mapped(self._fd, 0, most_bytes))

    def read(self, offset: int, length: int, *, by_mapping: bool) -> bytes:
        """Read inside the file."""
        return _load(self._address + offset, length) if by_mapping else _pread(self._fd, offset, length)

    def close(self) -> None:
        """Unmap and close; raises OSError if what anybody has stored was refused."""
        self._resources.close()
        os.close(self._fd)


def tail_of_last_page(fd: int) -> bytes:
    """Return what a mapping has behind the end of a file in its last page."""
    size = os.fstat(fd).st_size
    rest = -size % PAGE_SIZE
    if not rest:
        return b""
    with mapped(fd, size - 1, size + rest) as address:
        return _load(address + size % PAGE_SIZE, rest)


def with_open(path: Path, look: Callable[[int], T]) -> T:
    """Open a file for a look. Closing it may fail too, with what was refused of anybody's stores in mappings."""
    with opened(path) as fd:
        return look(fd)


def read(path: Path, way: str, offset: int, length: int) -> bytes:
    """Read from a file in one of the ways of ``READS``."""
    return with_open(path, lambda fd: READS[way](fd, offset, length))
