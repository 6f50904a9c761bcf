"""Mappings as mmap(2) makes them: also of what lies behind the end of a file in its last page; and mincore(2)."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_LIBC.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class RawMapping:
    """A shared mapping for reading."""

    def __init__(self, address: int) -> None:
        self._address = address

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes. An access that fails ends the process with SIGBUS."""
        return ctypes.string_at(self._address + offset, length)

    def copy(self, offset: int, length: int) -> bytes:
        """Return bytes of one page by way of a pipe: an access that fails is EFAULT, and only this thread waits."""
        out, into = os.pipe()
        try:
            if _LIBC.write(into, self._address + offset, length) != length:
                raise OSError(ctypes.get_errno(), "write")
            return os.read(out, length)
        finally:
            os.close(out)
            os.close(into)

    def in_page_cache(self, offset: int) -> bool:
        """Return whether the kernel has the page at this offset, without touching it."""
        vector = ctypes.create_string_buffer(1)
        if _LIBC.mincore(self._address + offset, mmap.PAGESIZE, vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return bool(vector.raw[0] & 1)

    def is_dropped(self, offset: int) -> bool:
        """Return whether the kernel does not have the page."""
        return not self.in_page_cache(offset)


@contextmanager
def mapped(fd: int, length: int) -> Iterator[RawMapping]:
    """Map a file from its beginning."""
    address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in {None, ctypes.c_void_p(-1).value}:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield RawMapping(address)
    finally:
        _LIBC.munmap(address, length)
