"""Open command files: lines that are written are carried out, what is read is the result of the last one.

A write never waits for a pager: a process that waits in a write cannot be killed. A command that has to wait (COMMIT
and the like) is accepted, goes on in the background, and the lines behind it wait for it. Until it is done a read of
the open file is EAGAIN and ``poll`` says that there is nothing to read. Its failure is told by the result only.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Awaitable, Callable

from vmofs.status import VmoError
from vmofs.wire.commands import USAGE, Command, CommandKind, parse_command
from vmofs.wire.lines import Line, split_lines
from vmofs.wire.results import format_error
from vmofs_mount.access import Identity
from vmofs_mount.caller import Caller
from vmofs_mount.handles import Data, Handle
from vmofs_mount.nodes import CommandFile, Node

_CUT_BYTES = 2**20 - 4096
"""The kernel cuts writes into pieces of 1 MiB, or a page less, wherever the lines end."""

_MAX_QUEUED_LINES = 4096

Waiting = Callable[[], Awaitable[str]]
"""The rest of a command that has to wait; returns its result."""


class CommandHandle(Handle):
    """One open command file. Its commands are carried out one after the other, with the identity of the opener.

    ``execute(command, handle)`` carries out one command and returns its result text, or what remains to be waited for.
    ``log(handle, line, result)`` is told of each. ``names`` keeps the files that names were turned into, and
    ``on_release`` what is to be undone when the file is closed.
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
        self._answer = USAGE[self.kind].encode() if flags & os.O_ACCMODE == os.O_RDONLY else b""
        self._position = 0
        self._waiting = False
        self._queue: deque[Line] = deque()
        self._pollers: list[Callable[[], None]] = []

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
        if self._waiting:
            self._enqueue(lines)
            return len(data)
        done = 0
        for number, line in enumerate(lines):
            try:
                waiting = await self._carry_out(line)
            except VmoError:
                if not done:
                    raise
                return done
            done = line.end
            if waiting is not None:
                self._waiting = True
                self._enqueue(lines[number + 1 :])
                self._spawn(self._go_on, line, waiting)
                break
        return len(data)

    def _enqueue(self, lines: list[Line]) -> None:
        if len(self._queue) + len(lines) > _MAX_QUEUED_LINES:
            raise BlockingIOError(errno.EAGAIN, f"{len(self._queue)} commands wait already")
        self._queue.extend(lines)

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
                waiting = await self._carry_out(line)
        except VmoError as error:
            self._set_answer(line.text, format_error(error))
            self._queue.clear()
        finally:
            self._waiting = False
            pollers, self._pollers = self._pollers, []
            for notify in pollers:
                notify()

    def poll(self, notify: Callable[[], None] | None) -> int:
        """Return what can be done without EAGAIN; ``notify`` is called once when that changes."""
        if not self._waiting:
            return select.POLLIN | select.POLLOUT
        if notify is not None:
            self._pollers.append(notify)
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
