"""Asynchronous writes and fsyncs as libaio and io_uring make them, by the bare system calls."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from typing import Protocol

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

_SYS_IO_SETUP, _SYS_IO_SUBMIT, _SYS_IO_GETEVENTS = {"x86_64": (206, 209, 208)}.get(platform.machine(), (0, 2, 4))
_IOCB = struct.Struct("=QIiHhIQQqQII")  # data, key, flags, opcode, priority, fd, buffer, length, offset, -, flags, -
_IO_EVENT = struct.Struct("=QQqq")  # data, iocb, result, -
_IOCB_CMD_PWRITE, _IOCB_CMD_FSYNC = 1, 2

_SYS_IO_URING_SETUP, _SYS_IO_URING_ENTER = 425, 426  # these are the same on every architecture
_URING_PARAMS_BYTES = 120
_SQ_OFFSETS, _CQ_OFFSETS = 40, 80  # in the parameters
_RINGS, _ENTRIES = 0, 0x1000_0000  # where they are mapped
_ENTRY = struct.Struct("=BBHiQQIIQ24x")  # opcode, flags, priority, fd, offset, buffer, length, flags, data
_OP_WRITE, _OP_FSYNC = 23, 3
_ENTER_GETEVENTS = 1


class Writer(Protocol):
    """Writes from a buffer and returns the result when the write has completed: the length, or an errno below 0."""

    def write(self, fd: int, buffer: Buffer, length: int, offset: int) -> int:
        """Write the first ``length`` bytes of a buffer."""


class Buffer:
    """Memory that is page aligned, as O_DIRECT wants it."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self._pinned = (ctypes.c_char * size).from_buffer(self.memory)
        self.address = ctypes.addressof(self._pinned)


class Libaio:
    """An aio context."""

    def __init__(self) -> None:
        self._context = ctypes.c_ulong(0)
        _call(_SYS_IO_SETUP, 8, ctypes.byref(self._context))

    def write(self, fd: int, buffer: Buffer, length: int, offset: int) -> int:
        """Submit one write and wait for its completion."""
        return self._submit(_IOCB_CMD_PWRITE, fd, buffer.address, length, offset)

    def fsync(self, fd: int) -> int:
        """Submit one fsync and wait for its completion."""
        return self._submit(_IOCB_CMD_FSYNC, fd, 0, 0, 0)

    def _submit(self, command: int, fd: int, address: int, length: int, offset: int) -> int:
        packed = _IOCB.pack(0, 0, 0, command, 0, fd, address, length, offset, 0, 0, 0)
        iocb = ctypes.create_string_buffer(packed, len(packed))
        pointer = ctypes.c_void_p(ctypes.addressof(iocb))
        _call(_SYS_IO_SUBMIT, self._context, ctypes.c_long(1), ctypes.byref(pointer))
        event = ctypes.create_string_buffer(_IO_EVENT.size)
        _call(_SYS_IO_GETEVENTS, self._context, ctypes.c_long(1), ctypes.c_long(1), event, None)
        result: int = _IO_EVENT.unpack(event.raw)[2]
        return result


class IoUring:
    """A ring of one entry."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(_URING_PARAMS_BYTES)
        self._fd = _call(_SYS_IO_URING_SETUP, 1, params)
        head, tail, _mask, _entries, _flags, _dropped, array = struct.unpack_from("=7I", params, _SQ_OFFSETS)
        self._tail = tail
        self._cq_head, self._cq_tail, _, _, _, self._cqes = struct.unpack_from("=6I", params, _CQ_OFFSETS)
        del head
        size = max(array + 4, self._cqes + 2 * 16)
        self._rings = mmap.mmap(self._fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, offset=_RINGS)
        self._entries = mmap.mmap(self._fd, mmap.PAGESIZE, offset=_ENTRIES)
        struct.pack_into("=I", self._rings, array, 0)

    def write(self, fd: int, buffer: Buffer, length: int, offset: int) -> int:
        """Submit one write and wait for its completion."""
        return self._submit(_OP_WRITE, fd, offset, buffer.address, length)

    def fsync(self, fd: int) -> int:
        """Submit one fsync and wait for its completion."""
        return self._submit(_OP_FSYNC, fd, 0, 0, 0)

    def _submit(self, command: int, fd: int, offset: int, address: int, length: int) -> int:
        _ENTRY.pack_into(self._entries, 0, command, 0, 0, fd, offset, address, length, 0, 0)
        (tail,) = struct.unpack_from("=I", self._rings, self._tail)
        struct.pack_into("=I", self._rings, self._tail, (tail + 1) & 0xFFFF_FFFF)
        _call(_SYS_IO_URING_ENTER, self._fd, 1, 1, _ENTER_GETEVENTS, None, ctypes.c_size_t(0))
        (head,) = struct.unpack_from("=I", self._rings, self._cq_head)
        result: int = struct.unpack_from("=Qi", self._rings, self._cqes + 16 * (head % 2))[1]
        struct.pack_into("=I", self._rings, self._cq_head, head + 1)
        return result


WAYS: dict[str, type[Libaio | IoUring]] = {"libaio": Libaio, "io_uring": IoUring}


def _call(number: int, *arguments: object) -> int:
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
