"""Open command files: lines that are written are carried out, what is read is the result of the last one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from vmofs.status import VmoError
from vmofs.wire.commands import USAGE, Command, CommandKind, parse_command
from vmofs.wire.lines import Line, split_lines
from vmofs.wire.results import format_error
from vmofs_mount.access import Identity
from vmofs_mount.caller import Caller
from vmofs_mount.handles import Data, Handle
from vmofs_mount.nodes import CommandFile, Node

MAX_WRITE_BYTES = 2**20
"""The kernel cuts longer writes into pieces of this size, wherever the lines end."""


class CommandHandle(Handle):
    """One open command file. Its commands are carried out one after the other, with the identity of the opener.

    ``execute(command, handle)`` carries out one command and returns its result text; ``log(handle, line, result)`` is
    told of each. ``names`` keeps the handles that names were turned into, for as long as the file is open.
    """

    nonseekable = True

    def __init__(
        self,
        file: CommandFile,
        flags: int,
        caller: Caller,
        execute: Callable[[Command, CommandHandle], Awaitable[str]],
        log: Callable[[CommandHandle, str, str], None],
    ) -> None:
        super().__init__(file, flags, caller)
        self.direct_io = True
        self.file = file
        self.kind = CommandKind(file.kind)
        self.identity = Identity.of_process(caller.uid, caller.gid, caller.pid)
        self.names: dict[tuple[str, int], Node] = {}
        self.on_release: list[Callable[[], None]] = []
        self._execute = execute
        self._log = log
        self._answer = USAGE[self.kind].encode() if flags & os.O_ACCMODE == os.O_RDONLY else b""
        self._position = 0

    async def read(self, offset: int, size: int) -> Data:
        """Go on reading the answer; the offset of a stream means nothing."""
        del offset
        piece = self._answer[self._position : self._position + size]
        self._position += len(piece)
        return piece

    async def write(self, offset: int, data: bytes) -> int:
        """Carry out the lines in order; return the bytes of those carried out before one failed."""
        del offset
        if len(data) >= MAX_WRITE_BYTES and b"\n" in data:
            data = data[: data.rindex(b"\n") + 1]  # the rest comes again, with what belongs to it
        try:
            lines = split_lines(data)
        except VmoError as error:
            self._set_answer("", format_error(error))
            raise
        done = 0
        for line in lines:
            try:
                await self._carry_out(line)
            except VmoError:
                if not done:
                    raise
                return done
            done = line.end
        return len(data)

    async def _carry_out(self, line: Line) -> None:
        try:
            result = await self._execute(parse_command(self.kind, line.text), self)
        except VmoError as error:
            self._set_answer(line.text, format_error(error))
            raise
        self._set_answer(line.text, result)

    def _set_answer(self, line: str, result: str) -> None:
        self._answer = result.encode()
        self._position = 0
        self._log(self, line, result.partition("\n")[0])

    def release(self) -> None:
        """Let go of everything that the open file held."""
        for undo in self.on_release:
            undo()
