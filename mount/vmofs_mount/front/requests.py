"""The requests that are served without libfuse: what is opened, read and written, and what must not wait.

A function stands for each opcode. It answers before it returns, or sees to it that somebody will. To serve another
opcode is to write a function and a line of the table.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Coroutine, Mapping
from functools import partial

from vmofs.units import PageRange
from vmofs_mount.files.aux_file import AuxHandle
from vmofs_mount.files.open_files import Handle, ReadHandle
from vmofs_mount.files.vmo_file import VmoHandle
from vmofs_mount.front.answers_of_libfuse import DIRECT_IO, NOFLUSH, PARALLEL_DIRECT_WRITES
from vmofs_mount.front.device import Device, Request
from vmofs_mount.front.parts import Parts
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.scheduler import Turns
from vmofs_mount.pagers.answers_file import AnswersHandle
from vmofs_mount.pagers.supply_tree import SupplyHandle
from vmofs_mount.tree.inodes import AuxFile, VmoFile

_FORGET, _OPEN, _READ, _WRITE, _RELEASE, _INTERRUPT, _BATCH_FORGET = 2, 14, 15, 16, 18, 36, 42  # <linux/fuse.h>
_WRITE_CACHE = 1  # of fuse_write_in: it comes from the page cache, where it was stored through a mapping
_ONE_NUMBER = struct.Struct("=Q")  # fuse_forget_in: a count; fuse_interrupt_in: the number of a request
_COUNT = struct.Struct("=II")  # fuse_batch_forget_in
_OPEN_IN = struct.Struct("=II")  # the flags of the open
_OPENED = struct.Struct("=QIi")  # fuse_open_out: the number of the open file, how it is open, no backing file
_KEEP_CACHE, _NONSEEKABLE = 1 << 1, 1 << 2
_FORGET_ONE = struct.Struct("=QQ")  # fuse_forget_one: inode and count


class Requests:
    """What is served of the requests of one mount."""

    def __init__(self, device: Device, turns: Turns, parts: Parts) -> None:
        self._device = device
        self._turns = turns
        self._tree = parts.tree
        self._vmos = parts.vmos
        self._handles = parts.handles
        self.table: Mapping[int, Callable[[Request], None]] = {
            _FORGET: self.forget,
            _OPEN: self.open,
            _READ: self.read,
            _WRITE: self.write,
            _RELEASE: self.release,
            _INTERRUPT: self.interrupt,
            _BATCH_FORGET: self.batch_forget,
        }

    def open(self, request: Request) -> None:
        """Answer OPEN. Truncation comes as a SETATTR of its own."""
        (flags, _) = self._device.fields(_OPEN_IN)
        node = self._tree.get(request.node)
        number = self._handles.open(node, flags, Caller(request.uid, request.gid, request.thread, 0))
        if isinstance(node, VmoFile) and flags & os.O_ACCMODE != os.O_RDONLY:
            self._start(request.unique, self._open_for_writing, request.unique, number, node)
        else:
            self._answer_open(request.unique, number)

    async def _open_for_writing(self, unique: int, number: int, node: VmoFile) -> None:
        await self._vmos.wait_writable(node)
        self._answer_open(unique, number)

    def _answer_open(self, unique: int, number: int) -> None:
        handle = self._handles.get(number)
        flags = _KEEP_CACHE
        if handle.direct_io or handle.flags & os.O_ACCMODE == os.O_RDONLY:
            flags |= NOFLUSH
        if handle.direct_io:
            flags |= DIRECT_IO
            if isinstance(handle, SupplyHandle | AuxHandle):
                flags |= PARALLEL_DIRECT_WRITES
        if handle.nonseekable:
            flags |= _NONSEEKABLE
        self._device.answer(unique, _OPENED.pack(number, flags, 0))

    def release(self, request: Request) -> None:
        """Answer RELEASE: a file is open no longer."""
        self._handles.close(request.handle)
        self._device.answer(request.unique, b"")

    def read(self, request: Request) -> None:
        """Answer a READ: that of a VMO at once, or when its pager has answered."""
        handle = self._handles.get(request.handle)
        if isinstance(handle, VmoHandle):
            self._vmos.reads.serve(handle, request.unique, request.thread, request.offset, request.size)
        else:
            assert isinstance(handle, ReadHandle)
            self._start(request.unique, self._read, handle, request)

    async def _read(self, handle: ReadHandle, request: Request) -> None:
        self._device.answer(request.unique, await handle.read(request.offset, request.size))

    def _start(self, unique: int, handle: Callable[..., Coroutine[object, object, None]], *arguments: object) -> None:
        """Run the handler of a request."""
        self._turns.start(unique, partial(self._carry_out, unique, handle, *arguments))

    async def _carry_out(
        self, unique: int, handle: Callable[..., Coroutine[object, object, None]], *arguments: object
    ) -> None:
        """Run a handler, and answer with the error that comes out, which must not end the mount.

        No context manager does this: in Python 3.13 that of contextlib keeps error and frames, and so what was written,
        until the garbage collector finds them.
        """
        try:
            await handle(*arguments)
        except Exception as error:  # noqa: BLE001 - see above
            self._device.refuse(unique, error)

    def write(self, request: Request) -> None:
        """Answer a WRITE: one that supplies pages at once, others as soon as they are carried out."""
        handle = self._handles.get(request.handle)
        data = self._device.body(request.size)
        if isinstance(handle, SupplyHandle | AnswersHandle):
            written = handle.write_at_once(request.offset, data)
            if written is not None:
                self._device.answer_written(request.unique, written)
                return
        self._start(request.unique, self._write, handle, request, bytes(data))

    async def _write(self, handle: Handle, request: Request, data: bytes) -> None:
        try:
            write = handle.write_back if request.flags & _WRITE_CACHE else handle.write
            written = await write(request.offset, data)
        except Exception:
            if isinstance(handle.node, AuxFile):
                handle.node.note_refused(PageRange.of_bytes(request.offset, len(data)))
            raise
        self._device.answer_written(request.unique, written)

    def forget(self, request: Request) -> None:
        """Count down what the kernel knows of an inode. There is no answer."""
        (count,) = self._device.fields(_ONE_NUMBER)
        self._tree.forget(request.node, count)

    def batch_forget(self, request: Request) -> None:
        """Count down what the kernel knows of many inodes."""
        del request
        (count, _) = self._device.fields(_COUNT)
        for node, known in _FORGET_ONE.iter_unpack(self._device.rest(48, count * _FORGET_ONE.size)):
            self._tree.forget(node, known)

    def interrupt(self, request: Request) -> None:
        """Let a request go that waits: whoever made it was killed, or has a signal to see to. There is no answer."""
        del request
        (unique,) = self._device.fields(_ONE_NUMBER)
        if not self._turns.interrupt(unique):
            self._vmos.reads.interrupt(unique)
