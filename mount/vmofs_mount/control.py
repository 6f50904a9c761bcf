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
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from vmofs.status import IoError, VmoError
from vmofs.wire.commands import USAGE, Command, CommandKind, parse_command
from vmofs.wire.lines import Line, split_lines
from vmofs.wire.results import format_error
from vmofs_mount.access import Identity
from vmofs_mount.caller import Caller
from vmofs_mount.handles import Data, Handle
from vmofs_mount.limits import Limits, Resource
from vmofs_mount.nodes import CommandFile, Node

_log = logging.getLogger(__name__)

_CUT_BYTES = 2**20 - 4096
"""The kernel cuts writes into pieces of 1 MiB, or a page less, wherever the lines end."""

_MAX_QUEUED_LINES = 4096

_LINES_AT_ONCE = 64
"""Lines of one write that are carried out before anybody else has a turn."""

Waiting = Callable[[], Awaitable[str]]
"""The rest of a command that has to wait; returns its result."""


class CommandHandle(Handle):
    """One open command file. Its commands are carried out one after the other, with the identity of the opener.

    ``execute(command, handle)`` carries out one command and returns its result text, or what remains to be waited for.
    ``log(handle, line, result)`` is told of each. ``names`` keeps the files that names were turned into, and
    ``on_release`` what is to be undone when the file is closed. ``limits`` counts what the opener makes.
    """

    nonseekable = True

    def __init__(
        self,
        file: CommandFile,
        flags: int,
        caller: Caller,
        execute: Callable[[Command, CommandHandle], Awaitable[str | Waiting]],
        log: Callable[[CommandHandle, str, str], None],
        spawn: Callable[..., None],
        limits: Limits,
    ) -> None:
        super().__init__(file, flags, caller)
        self.direct_io = True
        self.file = file
        self.kind = CommandKind(file.kind)
        self.identity = Identity.of_process(caller.uid, caller.gid, caller.pid)
        self.names: dict[tuple[str, int], Node] = {}
        self.on_release: list[Callable[[], None]] = []
        self.released = False
        self._execute = execute
        self._log = log
        self._spawn = spawn
        self.limits = limits
        self._answer = USAGE[self.kind].encode() if flags & os.O_ACCMODE == os.O_RDONLY else b""
        self._position = 0
        self._waiting = False
        self._queue: deque[Line] = deque()
        self._notify: Callable[[], None] | None = None
        self._turn = trio.Semaphore(1, max_value=1)  # no Lock: one trio task may run several handlers in turn

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
        if len(data) >= _CUT_BYTES and b"\n" in data:
            data = data[: data.rindex(b"\n") + 1]  # the rest comes again, with what belongs to it
        try:
            lines = split_lines(data)
        except VmoError as error:
            self._set_answer("", format_error(error))
            raise
        await self._take_turn()
        try:
            done = await self._carry_out_all(lines)
        finally:
            self._turn.release()
        return len(data) if done == len(lines) else lines[done - 1].end

    async def _take_turn(self) -> None:
        """Wait for the write before. Of a writer who was killed the kernel waits no longer, and sends the next."""
        try:
            self._turn.acquire_nowait()  # unlike ``acquire`` it gives nobody else a turn
        except trio.WouldBlock:
            await self._turn.acquire()

    async def _carry_out_all(self, lines: list[Line]) -> int:
        """Carry out lines, or leave them for later; return their number, fewer than all if one fails."""
        if self._waiting:
            return self._enqueue(lines)
        for number, line in enumerate(lines):
            if number % _LINES_AT_ONCE == _LINES_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()  # others have their turn
            try:
                waiting = await self._carry_out(line)
            except VmoError:
                if not number:
                    raise
                return number
            if waiting is not None:
                self._waiting = True
                self._spawn(self._go_on, line, waiting)
                rest = lines[number + 1 :]
                return number + 1 + (self._enqueue(rest, at_least=0) if rest else 0)
        return len(lines)

    def _enqueue(self, lines: list[Line], at_least: int = 1) -> int:
        """Let lines wait, and return how many there was room for.

        Raises:
            BlockingIOError: for fewer than ``at_least``.
        """
        count = 0
        for line in lines[: _MAX_QUEUED_LINES - len(self._queue)]:
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
            result = await self._execute(parse_command(self.kind, line.text), self)
        except VmoError as error:
            self._set_answer(line.text, format_error(error))
            raise
        if not isinstance(result, str):
            return result
        self._set_answer(line.text, result)
        return None

    async def _go_on(self, line: Line, waiting: Waiting | None) -> None:
        """Finish a command that waits, then the lines behind it up to the first that fails."""
        try:
            while True:
                if waiting is not None:
                    self._set_answer(line.text, await waiting())
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
        self._answer = result.encode()
        self._position = 0
        self._log(self, line, result.partition("\n")[0])

    def release(self) -> None:
        """Let go of everything that the open file held."""
        self.released = True
        for undo in self.on_release:
            undo()


def _queue_bytes(line: Line) -> int:
    """Return what a waiting line takes in memory, about."""
    return 2 * len(line.text) + 200
