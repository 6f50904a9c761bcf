"""Open command files: lines that are written are carried out, what is read is the result of the last one.

A write never waits for a pager: a process that waits in a write cannot be killed. A command that has to wait (COMMIT
and the like) is accepted, goes on in the background, and the lines behind it wait for it. Until it is done a read of
the open file is EAGAIN and ``poll`` says that there is nothing to read. Its failure is told by the result only.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol
from weakref import WeakValueDictionary

import trio

from vmofs.core.pager import Pager
from vmofs.status import IoError, NoMemoryError, VmoError
from vmofs.wire.commands import USAGE, Command, CommandKind, parse_command
from vmofs.wire.lines import Line, split_lines
from vmofs.wire.results import format_error
from vmofs_mount.files.open_files import Data, ReadHandle
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.slices import Slices, Work
from vmofs_mount.rights.identity import Identity
from vmofs_mount.tree.inodes import AuxFile, CommandFile, Node, VmoFile
from vmofs_mount.tree.limits import Limits, Resource

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**17
"""Of a write: one that is longer is a short one, to the end of a line. The kernel cuts after some 1 MiB, wherever lines
end, and to look at so many bytes takes milliseconds, even if they are thousands of empty lines."""

_MAX_LINES = 4096
"""That wait behind another one. A write with more of them is a short one: to look at half a million takes long."""

_TURN_SECONDS = 0.25
"""How long lines of one write are carried out. After that it is a short write: the kernel has the command file locked
meanwhile, and others who write to it cannot even be killed."""

_UNDONE_AT_ONCE = 100
"""Pins that are taken back in one go when the file is closed. Each takes some 5 us."""

_SHORT_ANSWER_BYTES = 4096
"""An answer up to here is not counted."""

_KEPT_NAME_BYTES = 300
"""What a name takes in memory, about, that was turned into a file, besides its text."""

_MAX_NAMES_BYTES = 4 * 2**20
"""What these take of one open file. Then they are let go of, and checked again when they are named again."""

_ANSWERS = {CommandKind.SUPPLY_PAGES, CommandKind.OP_RANGE}
"""Commands that others wait for."""

Waiting = Callable[[], Awaitable[str]]
"""The rest of a command that has to wait; returns its result."""


class Executor(Protocol):
    """Who carries out commands."""

    async def execute(self, command: Command, handle: CommandHandle) -> str | Waiting:
        """Carry out one command and return its result text, or what remains to be waited for.

        Raises:
            VmoError: it failed.
        """

    def note(self, handle: CommandHandle, line: str, result: str) -> None:
        """Learn what became of a line."""


class CommandHandle(ReadHandle):
    """One open command file. Its commands are carried out one after the other, with the identity of the opener.

    ``names`` keeps the files that names were turned into, and ``on_release`` what is to be undone when the file is
    closed. ``limits`` counts what the opener makes.
    """

    nonseekable = True
    BYTES = 2700

    def __init__(
        self,
        file: CommandFile,
        flags: int,
        caller: Caller,
        executor: Executor,
        limits: Limits,
        slices: Slices,
    ) -> None:
        super().__init__(file, flags, caller)
        self.direct_io = True
        self.file = file
        self.kind = CommandKind(file.kind)
        self.identity = Identity.of_process(caller.uid, caller.gid, caller.pid)
        self.on_release: list[Callable[[], None]] = []
        self.named: list[VmoFile | AuxFile] = []
        """The files that the command names which is being carried out."""
        self.released = False
        self._executor = executor
        self.limits = limits
        self._slices = slices
        self._names: WeakValueDictionary[tuple[str, int], Node] = WeakValueDictionary()
        self._names_bytes = 0
        self._held_bytes = 0
        self._answer_bytes = 0
        self._answer = USAGE[self.kind].encode() if flags & os.O_ACCMODE == os.O_RDONLY else b""
        self._position = 0
        self._waiting = False
        self._queue: deque[Line] = deque()
        self._notify: Callable[[], None] | None = None
        self._turn = trio.Semaphore(1, max_value=1)  # no Lock: one trio task may run several handlers in turn

    @property
    def pager(self) -> Pager | None:
        """The pager whose command file it is, if it is one's."""
        return self.file.pager

    async def read(self, offset: int, size: int) -> Data:
        """Go on reading the answer; the offset of a stream means nothing."""
        del offset
        if self._waiting:
            raise BlockingIOError(errno.EAGAIN, "the command is not finished")
        piece = self._answer[self._position : self._position + size]
        self._position += len(piece)
        return piece

    async def write(self, offset: int, data: bytes) -> int:
        """Carry out the lines in order; return the bytes of those carried out before one failed."""
        del offset
        work = self._slices.begin(self.identity.uid, urgent=self.kind in _ANSWERS)
        if len(data) > _MOST_BYTES:
            data = data[: data.rfind(b"\n", 0, _MOST_BYTES) + 1 or None]  # the rest comes again
        if data.count(b"\n") > _MAX_LINES:
            data = data[: len(data) - len(data.split(b"\n", _MAX_LINES + 1)[-1])]
        try:
            lines = split_lines(data)
        except VmoError as error:
            self._set_answer("", format_error(error))
            raise
        await self._take_turn()
        try:
            done = await self._carry_out_all(lines, work)
        finally:
            self._turn.release()
        if self.kind not in _ANSWERS and work.is_over:
            await work.rest()  # before the next write: there may be no end to them
        return len(data) if done == len(lines) else lines[done - 1].end

    async def _take_turn(self) -> None:
        """Wait for the write before. Of a writer who was killed the kernel waits no longer, and sends the next."""
        try:
            self._turn.acquire_nowait()  # unlike ``acquire`` it gives nobody else a turn
        except trio.WouldBlock:
            await self._turn.acquire()

    async def _carry_out_all(self, lines: list[Line], work: Work) -> int:
        """Carry out lines, or leave them for later; return their number, fewer than all if one fails or time is up."""
        if self._waiting:
            return self._enqueue(lines)
        began = time.perf_counter()
        for number, line in enumerate(lines):
            if number and time.perf_counter() - began > _TURN_SECONDS:
                return number
            if work.is_over:
                await work.rest()
            try:
                waiting = await self._carry_out(line)
            except VmoError:
                if not number:
                    raise
                return number
            if waiting is not None:
                self._waiting = True
                self._slices.spawn(self._go_on, line, waiting)
                rest = lines[number + 1 :]
                return number + 1 + (self._enqueue(rest, at_least=0) if rest else 0)
        return len(lines)

    def _enqueue(self, lines: list[Line], at_least: int = 1) -> int:
        """Let lines wait, and return how many there was room for.

        Raises:
            BlockingIOError: for fewer than ``at_least``.
        """
        count = 0
        for line in lines[: _MAX_LINES - len(self._queue)]:
            try:
                self.limits.take(Resource.QUEUE_BYTES, self.identity.uid, _queue_bytes(line))
            except VmoError:
                break
            self._queue.append(line)
            count += 1
        if count < min(at_least, len(lines)):
            raise BlockingIOError(errno.EAGAIN, f"{len(self._queue)} commands wait already")
        return count

    async def _carry_out(self, line: Line) -> Waiting | None:
        """Carry out a line and set the answer, or return what remains to be waited for."""
        try:
            result = await self._executor.execute(parse_command(self.kind, line.text), self)
            if not isinstance(result, str):
                return result
            self._set_answer(line.text, result)
        except VmoError as error:
            self._set_answer(line.text, format_error(error))
            raise
        return None

    async def _go_on(self, line: Line, waiting: Waiting | None) -> None:
        """Finish a command that waits, then the lines behind it up to the first that fails."""
        try:
            work = self._slices.begin(self.identity.uid)
            while True:
                if waiting is not None:
                    self._set_answer(line.text, await waiting())
                if work.is_over:
                    await work.rest()
                if not self._queue:
                    break
                line = self._queue.popleft()
                self.limits.give(Resource.QUEUE_BYTES, self.identity.uid, _queue_bytes(line))
                waiting = await self._carry_out(line)
        except VmoError as error:
            self._set_answer(line.text, format_error(error))
        except Exception as error:  # noqa: BLE001 - an error here must not end the mount
            _log.exception("a command failed")
            self._set_answer(line.text, format_error(IoError(f"an error of vmofs: {error}")))
        finally:
            for left in self._queue:
                self.limits.give(Resource.QUEUE_BYTES, self.identity.uid, _queue_bytes(left))
            self._queue.clear()
            self._waiting = False
            notify, self._notify = self._notify, None
            if notify is not None:
                notify()

    def poll(self, notify: Callable[[], None] | None) -> int:
        """Return what can be done without EAGAIN; ``notify`` is called once when that changes."""
        if not self._waiting:
            return select.POLLIN | select.POLLOUT
        if notify is not None:
            self._notify = notify  # the kernel knows one for each open file, and wakes all who poll it
        return select.POLLOUT

    def _set_answer(self, line: str, result: str) -> None:
        if self._answer_bytes:
            self.let_go(self._answer_bytes)
        self._answer, self._position, self._answer_bytes = b"", 0, 0
        if len(result) > _SHORT_ANSWER_BYTES:
            self.hold(len(result))
            self._answer_bytes = len(result)
        self._answer = result.encode()
        self._executor.note(self, line, result.partition("\n")[0])

    def kept_name(self, path: str, mode: int) -> Node | None:
        """Return the file that a name was turned into, with that right, if it still lives."""
        return self._names.get((path, mode))

    def keep_name(self, path: str, mode: int, node: Node) -> None:
        """Keep the file that a name was turned into."""
        size = _KEPT_NAME_BYTES + len(path)
        if self._names_bytes + size > _MAX_NAMES_BYTES:
            self._let_go_of_names()
        try:
            self.hold(size)
        except NoMemoryError:
            return
        self._names_bytes += size
        self._names[path, mode] = node

    def forget_name(self, path: str, mode: int) -> None:
        """Keep it no longer."""
        self._names.pop((path, mode), None)

    def _let_go_of_names(self) -> None:
        self._names.clear()
        self.let_go(self._names_bytes)
        self._names_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count memory that the open file is about to hold for its opener, until ``let_go`` or its release.

        Raises:
            NoMemoryError: he would hold too much.
        """
        try:
            self.limits.take(Resource.QUEUE_BYTES, self.identity.uid, size_bytes)
        except NoMemoryError:
            if not self._names_bytes:
                raise
            self._let_go_of_names()  # they can be checked again
            self.limits.take(Resource.QUEUE_BYTES, self.identity.uid, size_bytes)
        self._held_bytes += size_bytes

    def let_go(self, size_bytes: int) -> None:
        """Count memory no longer."""
        self.limits.give(Resource.QUEUE_BYTES, self.identity.uid, size_bytes)
        self._held_bytes -= size_bytes

    def release(self) -> None:
        """Let go of everything that the open file held."""
        self.released = True
        if len(self.on_release) <= _UNDONE_AT_ONCE:
            self._undo(len(self.on_release))
        else:
            self._slices.spawn(self._undo_slowly)

    def _undo(self, count: int) -> None:
        for _ in range(count):
            self.on_release.pop()()
        if not self.on_release:
            self.let_go(self._held_bytes)

    async def _undo_slowly(self) -> None:
        """Undo what was done by an open file that is closed; others have their turn meanwhile."""
        work = self._slices.begin(self.identity.uid)
        while self.on_release:
            self._undo(min(_UNDONE_AT_ONCE, len(self.on_release)))
            if work.is_over:
                await work.rest()


def _queue_bytes(line: Line) -> int:
    """Return what a waiting line takes in memory, about."""
    return 2 * len(line.text) + 200
