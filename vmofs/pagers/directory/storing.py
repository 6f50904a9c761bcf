"""Writes many files back together: their commands in few writes, their bytes by several threads, and one sync for all.

The order is that of ``vmofs.client.writing_back``: BEGIN, the data, the size, safe on disk, END. What was read of the
real file before that may be old from then on (``File.changes``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from vmofs.client.command_file import CommandFile
from vmofs.client.mount import PagerDirectory, PagerVmo
from vmofs.client.writing_back import open_view, view_of
from vmofs.pagers.directory.backing import Backing, File
from vmofs.status import VmoError
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind, DirtyRange, PagerOp
from vmofs.wire.commands import Command, CommandKind, OpRange, VmoCreateChild

WORKERS = 8
_PIECE = 1 << 20
_MOST_SYNCS = 16
"""Of more files than that the whole filesystem is synced at once."""


@dataclass(eq=False)
class Item:
    """A file that is to be written back.

    Args:
        file: The file.
        vmo: What it is in the mount, by a name that it has now.
        inode: That of the mount, which tells whether the name is still its.
        ranges: What is dirty, if that is known.
    """

    file: File
    vmo: PagerVmo
    inode: int
    ranges: list[DirtyRange] | None = None
    error: OSError | VmoError | None = None
    """Why it could not be; it is dirty still."""
    source: int = field(default=-1, repr=False)
    target: int = field(default=-1, repr=False)


class Store:
    """Writes files of one pager back."""

    def __init__(self, pager: PagerDirectory, backing: Backing) -> None:
        self._pager, self._backing = pager, backing
        self._commands = pager.commands.file(CommandKind.OP_RANGE)
        self._children = pager.mount.commands.file(CommandKind.VMO_CREATE_CHILD)
        self._threads = ThreadPoolExecutor(WORKERS, "vmofs write-back")
        self._top = os.open(backing.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """End."""
        self._threads.shutdown()
        os.close(self._top)

    def write_back(self, items: Sequence[Item]) -> None:
        """Bring files to what their VMOs are now. Each that could not be has its ``error``."""
        try:
            # Of no pages at all it is for the size alone: what that was until then counts as written back at END.
            unknown = [item for item in items if item.ranges is None]
            self._run(self._commands, unknown, lambda item: _operations(item, PagerOp.WRITEBACK_BEGIN))
            self._each(items, self._look)
            self._run(self._children, items, _child)
            self._each(items, self._open)
            self._run(self._commands, items, lambda item: _operations(item, PagerOp.WRITEBACK_BEGIN))
            self._each(items, self._copy)
            self._sync(items)
            self._each(items, self._check)
            self._run(self._commands, items, lambda item: _operations(item, PagerOp.WRITEBACK_END))  # fsync returns
        finally:
            for item in items:
                for fd in (item.source, item.target):
                    if fd >= 0:
                        os.close(fd)

    def _each(self, items: Sequence[Item], step: Callable[[Item], None]) -> None:
        """Take a step for each that has come so far, several at a time."""

        def take(item: Item) -> None:
            try:
                step(item)
            except (OSError, VmoError) as error:
                item.error = error

        good = [item for item in items if item.error is None]
        if len(good) == 1:
            take(good[0])
        else:
            list(self._threads.map(take, good))

    def _run(self, file: CommandFile, items: Sequence[Item], commands: Callable[[Item], Iterable[Command]]) -> None:
        """Carry out commands for each that has come so far, many in each write."""
        left = [(item, command) for item in items if item.error is None for command in commands(item)]
        while left:
            try:
                left = left[file.run_many([command for _, command in left]) :]
            except (OSError, VmoError) as error:
                failed = left[0][0]
                failed.error = error
                left = [each for each in left if each[0] is not failed]

    def _look(self, item: Item) -> None:
        """Find out what is dirty, and open the file that gets it."""
        if item.ranges is None:
            item.ranges = item.vmo.query_dirty_ranges()
        item.target = self._backing.open(item.file, os.O_RDWR)

    def _open(self, item: Item) -> None:
        item.source = open_view(item.vmo, item.file.key)

    def _copy(self, item: Item) -> None:
        size = os.fstat(item.source).st_size
        if os.fstat(item.target).st_size != size:
            os.ftruncate(item.target, size)
        for dirty in item.ranges or ():
            end = min(dirty.offset + dirty.length, size)
            # Zeros are not read: what is cut off and zero again before END is clean then.
            if dirty.is_zero:
                _zero(item.target, dirty.offset, end)
            else:
                _copy(item.source, item.target, dirty.offset, end)

    def _sync(self, items: Sequence[Item]) -> None:
        good = [item for item in items if item.error is None]
        if len(good) <= _MOST_SYNCS:
            self._each(good, lambda item: os.fsync(item.target))
            return
        try:
            _sync_filesystem(self._top)
        except OSError as error:
            for item in good:
                item.error = error

    def _check(self, item: Item) -> None:
        """See to it that the name is still that of the file, whose pages are clean from END on."""
        with suppress(FileNotFoundError):  # removed and open: the command still means it
            if os.lstat(item.vmo.path).st_ino != item.inode:
                raise OSError(errno.ESTALE, f"{item.vmo.field} was given to another file")
        with item.file.lock:
            item.file.changes += 1


def _child(item: Item) -> list[Command]:
    return [VmoCreateChild(ChildKind.REFERENCE, item.vmo.field, view_of(item.vmo, item.file.key).field, 0, 0, True)]


def _operations(item: Item, op: PagerOp) -> list[Command]:
    is_begin = op is PagerOp.WRITEBACK_BEGIN
    return [
        OpRange(op, item.vmo.field, dirty.offset, dirty.length, int(is_begin and dirty.is_zero))
        for dirty in item.ranges or (DirtyRange(PageRange(0, 0), is_zero=False),)
    ]


def _copy(source: int, target: int, offset: int, end: int) -> None:
    """Copy bytes as far as the source goes."""
    while offset < end:
        length = min(end - offset, _PIECE)
        data = os.pread(source, -(-length // PAGE_SIZE) * PAGE_SIZE, offset)[:length]
        if not data:
            return  # it was cut off: the size is behind, and comes with the next
        _write(target, data, offset)
        offset += len(data)


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, offset)
        view, offset = view[done:], offset + done


def _zero(target: int, offset: int, end: int) -> None:
    """Write zeros where there is anything else: holes stay holes."""
    if end >= os.fstat(target).st_size:
        with suppress(OSError):
            os.ftruncate(target, offset)
            os.ftruncate(target, end)
            return
    while offset < end:
        try:
            offset = os.lseek(target, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: there is nothing any more
            return
        data_end = min(os.lseek(target, offset, os.SEEK_HOLE), end)
        while offset < data_end:
            length = min(data_end - offset, _PIECE)
            _write(target, bytes(length), offset)
            offset += length


def _sync_filesystem(fd: int) -> None:
    """Write all of a filesystem to disk (syncfs(2)), which the standard library does not offer."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
