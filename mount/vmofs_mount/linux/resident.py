"""Which pages of a file the kernel has: reading these asks nobody. mincore(2), which Python does not have."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

from vmofs.units import PAGE_SIZE

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value
_WINDOW = 1 << 30


def resident_pages(descriptor: int, size: int) -> Iterator[int]:
    """Yield the offsets of pages that the kernel has at this moment.

    Raises:
        OSError: The file cannot be mapped.
    """
    for start in range(0, size, _WINDOW):
        length = min(_WINDOW, size - start)
        address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            found = ctypes.create_string_buffer(-(-length // PAGE_SIZE))
            if _LIBC.mincore(address, length, found):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            _LIBC.munmap(address, length)
        for page, state in enumerate(found.raw):
            if state & 1:
                yield start + page * PAGE_SIZE
