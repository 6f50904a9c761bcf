"""The requests that are served without libfuse, by plain calls: what is read and written, and what must not wait.

A function stands for each opcode. It answers before it returns, or sees to it that somebody will. To serve another
opcode is to write a function and a line of the table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial

from vmofs.units import PageRange
from vmofs_mount.files.open_files import Handle, ReadHandle
from vmofs_mount.files.vmo_file import VmoHandle
from vmofs_mount.front.device import Device, Request
from vmofs_mount.front.parts import Parts
from vmofs_mount.loop.scheduler import Turns
from vmofs_mount.pagers.answers_file import AnswersHandle
from vmofs_mount.pagers.supply_tree import SupplyHandle
from vmofs_mount.tree.inodes import AuxFile

_FORGET, _READ, _WRITE, _INTERRUPT, _BATCH_FORGET = 2, 15, 16, 36, 42  # <linux/fuse.h>: enum fuse_opcode
_ONE_NUMBER = struct.Struct("=Q")  # fuse_forget_in: a count; fuse_interrupt_in: the number of a request
_COUNT = struct.Struct("=II")  # fuse_batch_forget_in
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
            _READ: self.read,
            _WRITE: self.write,
            _INTERRUPT: self.interrupt,
            _BATCH_FORGET: self.batch_forget,
        }

    def read(self, request: Request) -> None:
        """Answer a READ: that of a VMO at once, or when its pager has answered."""
        handle = self._handles.get(request.handle)
        if isinstance(handle, VmoHandle):
            self._vmos.reads.serve(handle, request.unique, request.thread, request.offset, request.size)
        else:
            assert isinstance(handle, ReadHandle)
            self._turns.start(request.unique, partial(self._read, handle, request))

    async def _read(self, handle: ReadHandle, request: Request) -> None:
        try:
            data = await handle.read(request.offset, request.size)
        except Exception as error:  # noqa: BLE001 - it must not end the mount
            self._device.refuse(request.unique, error)
        else:
            self._device.answer(request.unique, data)

    def write(self, request: Request) -> None:
        """Answer a WRITE: one that supplies pages at once, others as soon as they are carried out."""
        handle = self._handles.get(request.handle)
        data = self._device.body(request.size)
        if isinstance(handle, SupplyHandle | AnswersHandle):
            written = handle.write_at_once(request.offset, data)
            if written is not None:
                self._device.answer_written(request.unique, written)
                return
        self._turns.start(request.unique, partial(self._write, handle, request, bytes(data)))

    async def _write(self, handle: Handle, request: Request, data: bytes) -> None:
        try:
            written = await handle.write(request.offset, data)
        except Exception as error:  # noqa: BLE001 - it must not end the mount
            if isinstance(handle.node, AuxFile):
                handle.node.note_refused(PageRange.of_bytes(request.offset, len(data)))
            self._device.refuse(request.unique, error)
        else:
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
