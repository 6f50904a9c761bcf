"""``control/PAGER/answers``: one write that supplies many pages, of any VMOs of the pager. See ``vmofs.wire.answers``.

It is a command file whose commands are records: they are carried out in order, the first that fails ends the write,
and what is read is the result. ``supply/`` is the same for one range of one VMO.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from vmofs.core.pager import Pager
from vmofs.status import InvalidArgsError, NoMemoryError, Status, VmoError
from vmofs.units import is_page_aligned
from vmofs.wire.answers import Answer, parse_answers, size_of
from vmofs.wire.results import format_error, format_result
from vmofs_mount.files.open_files import Data, ReadHandle
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.slices import Slices
from vmofs_mount.pagers.answers import Answers
from vmofs_mount.rights.identity import Identity
from vmofs_mount.rights.resolver import Names
from vmofs_mount.tree.inodes import Node, VmoFile
from vmofs_mount.tree.limits import Limits, Resource

USAGE = b"""\
COUNT, then OFFSET LENGTH KEY of each record, then the bytes of each: 64-bit numbers, little-endian.
Each record is a supply of whole pages, as a write to supply/; KEY is that of the request lines.
"""

_MOST_AT_ONCE = 64
"""Records that are carried out in one go, in a millisecond."""

_CHECKED_BYTES = 150
"""What it takes, about, to remember a VMO whose rights were checked."""


class AnswersFile(Node):
    """The file of one pager."""

    __slots__ = ("pager",)

    def __init__(self, permissions: int, uid: int, gid: int, pager: Pager) -> None:
        super().__init__(permissions, uid, gid)
        self.pager = pager


class Log(Protocol):
    """Where what was refused is noted."""

    def add(self, kind: str, text: str) -> None:
        """Add a line."""


class AnswersFiles:
    """What open ones have in common."""

    def __init__(self, names: Names, answers: Answers, limits: Limits, slices: Slices, log: Log) -> None:
        self.names = names
        self.answers = answers
        self.limits = limits
        self.slices = slices
        self.log = log


class AnswersHandle(ReadHandle):
    """An open one. Rights are those of whoever opened it; they are checked once for each VMO."""

    nonseekable = True

    def __init__(self, node: AnswersFile, flags: int, caller: Caller, shared: AnswersFiles) -> None:
        super().__init__(node, flags, caller)
        self.direct_io = True
        self._pager = node.pager
        self._identity = Identity.of_process(caller.uid, caller.gid, caller.pid)
        self._shared = shared
        self._checked: WeakSet[VmoFile] = WeakSet()
        self._held_bytes = 0
        self._result = USAGE if flags & os.O_ACCMODE == os.O_RDONLY else b""
        self._position = 0

    async def read(self, offset: int, size: int) -> Data:
        """Go on reading the result; the offset of a stream means nothing."""
        del offset
        piece = self._result[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def write_at_once(self, offset: int, data: bytes | memoryview) -> int | None:
        """Do as ``write`` does, if it is short and all rights are known; else return None, and nothing has changed.

        Raises:
            VmoError: nothing was supplied.
        """
        del offset
        answers, announced = self._parse(data)
        if len(answers) > _MOST_AT_ONCE:
            return None
        try:
            files = [self._find(answer) for answer in answers]
        except VmoError:
            return None
        if not all(file in self._checked for file in files):
            return None
        done = 0
        try:
            for file, answer in zip(files, answers, strict=True):
                self._supply(file, answer)
                done += 1
        except VmoError as error:
            self._refused(error, done, announced)
            if not done:
                raise
        return self._ended(answers, done, announced)

    async def write(self, offset: int, data: bytes) -> int:
        """Supply what each record has, in order; return the length of a write of those before the first that failed.

        Raises:
            VmoError: the first failed, or it is no such write.
        """
        del offset
        answers, announced = self._parse(data)
        work = self._shared.slices.begin(self._identity.uid, urgent=True)
        done = 0
        try:
            for answer in answers:
                if work.is_over:
                    await work.rest()
                file = self._find(answer)
                if file not in self._checked:
                    await self._shared.names.check_node(self._identity, file, os.W_OK)
                    self._remember(file)
                self._supply(file, answer)
                done += 1
        except VmoError as error:
            self._refused(error, done, announced)
            if not done:
                raise
        return self._ended(answers, done, announced)

    def _parse(self, data: bytes | memoryview) -> tuple[list[Answer], int]:
        try:
            return parse_answers(data)
        except VmoError as error:
            self._set_result(format_error(error))
            raise

    def _find(self, answer: Answer) -> VmoFile:
        file = self._pager.vmo_of_key(answer.key).owner
        assert isinstance(file, VmoFile)
        return file

    def _supply(self, file: VmoFile, answer: Answer) -> None:
        offset, length = answer.offset, len(answer.data)
        if not is_page_aligned(length) and offset + length != file.size_bytes:
            raise InvalidArgsError(f"{offset}+{length} of key {answer.key} does not end with a page, or with the VMO")
        self._shared.answers.supply_bytes(self._pager, file, offset, answer.data)

    def _remember(self, file: VmoFile) -> None:
        """Check the rights for a VMO no more, as long as this is open, if there is memory to remember it."""
        try:
            self._shared.limits.take(Resource.QUEUE_BYTES, self._identity.uid, _CHECKED_BYTES)
        except NoMemoryError:
            self._forget()
            return
        self._held_bytes += _CHECKED_BYTES
        self._checked.add(file)

    def _forget(self) -> None:
        self._checked.clear()
        self._shared.limits.give(Resource.QUEUE_BYTES, self._identity.uid, self._held_bytes)
        self._held_bytes = 0

    def _refused(self, error: VmoError, done: int, announced: int) -> None:
        failed = VmoError.of(error.status, f"record {done} of {announced}: {error}")
        self._set_result(format_error(failed))
        text = f"uid={self._identity.uid} {self.node.path} -> {format_error(failed).rstrip()}"
        self._shared.log.add("command", text)

    def _ended(self, answers: list[Answer], done: int, announced: int) -> int:
        """Return the length of a write of the answers that were carried out; if none failed that is the result."""
        if done == len(answers):
            self._set_result(format_result(Status.OK, "" if done == announced else f"records={done} of {announced}"))
        return size_of(answers[:done])

    def _set_result(self, result: str) -> None:
        self._result, self._position = result.encode(), 0

    def release(self) -> None:
        """Let go of what is counted."""
        self._forget()
