"""The pager of a soak, a process of its own: it serves files from a directory, in every way that a pager may.

``python -S -m tests.soak.pager MOUNT PAGER FIFO NUMBER STORE BOARD SEED FAIL_PERCENT LIE``; NUMBER is the FIFO's on the
board.

The content of the VMO with key K is the file ``STORE/K``; what lies beyond its end is zeros. A page may be cleaned
only while that file is locked exclusively, and what is read from it is supplied under a shared lock: so that a pager
that was stopped between reading and supplying cannot bring back what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.soak.board import Board

PAGE = 4096
MOST = 1 << 17
"""Bytes that one write to ``supply/`` carries."""

CODES = ("IO", "IO_DATA_INTEGRITY", "NO_SPACE", "BUFFER_TOO_SMALL", "BAD_STATE")
LIE_PAGE = 3
"""The page of each file that a lying pager brings with a bit changed."""


class Request(NamedTuple):
    """One line of the FIFO."""

    command: str
    key: int
    offset: int
    length: int
    name: str


class Pager:
    """Answers the requests of one FIFO until it is killed."""

    def __init__(self, mount: Path, pager: str, store: Path, board: Board, seed: str) -> None:
        self.mount, self.control, self.store, self.board = mount, mount / "control" / pager, store, board
        self.random = random.Random(seed)  # noqa: S311 - nothing secret
        self.stage_name = f"aux/stage-{pager}-{os.getpid()}"
        self.fail_percent = 0.0
        self.lie = False
        self._deferred: list[Request] = []

    def serve(self, fifo: str, number: int) -> None:
        """Answer for ever."""
        while True:
            requests = os.open(self.control / fifo, os.O_RDONLY)
            self.board.reading[number] = time.monotonic()
            rest = b""
            while True:
                if not select.select([requests], [], [], 0.01 if self._deferred else None)[0]:
                    self._take_up_deferred()
                    continue
                data = os.read(requests, 65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    command, key, offset, length, name = line.decode().split(" ")
                    self.answer(Request(command, int(key), int(offset), int(length), name))
                self._take_up_deferred()
            os.close(requests)

    def _take_up_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for request in deferred:
            self.answer(request)

    def answer(self, request: Request) -> None:
        """Answer one request in one of the possible ways."""
        try:
            self._answer(request)
        except BlockingIOError:
            self._deferred.append(request)  # somebody has the file locked
        except OSError as error:
            self._answer_under_new_name(request, error)

    def _answer_under_new_name(self, request: Request, error: OSError) -> None:
        """Find out what went wrong: was the file renamed since, is it gone, was it cut?"""
        with contextlib.suppress(OSError):
            for line in (self.control / "pending").read_text().splitlines():
                command, key, offset, length, name = line.split(" ")[:5]
                if command == request.command and int(key) == request.key and name != request.name:
                    self.answer(Request(command, request.key, int(offset), int(length), name))
                    return
        gone = (errno.ENOENT, errno.ERANGE, errno.EBADFD, errno.ENODATA, errno.EINVAL)
        if error.errno not in gone:
            raise error

    def _answer(self, request: Request) -> None:
        if request.command == "COMPLETE":
            return
        if request.command == "WRITEBACK":
            with self.locked(request.key, fcntl.LOCK_EX) as store:
                self.write_back(request, store)
        elif self.random.randrange(1000) < 10 * self.fail_percent:
            self.fail(request)
        elif request.command == "DIRTY":
            self.command("op_range", f"DIRTY {request.name} {request.offset} {request.length}")
        else:
            with self.locked(request.key, fcntl.LOCK_SH) as store:
                self.supply(request, store)

    @contextlib.contextmanager
    def locked(self, key: int, how: int) -> Iterator[int]:
        """Open the file of a VMO and lock it; raises BlockingIOError if somebody else has it locked."""
        fd = os.open(self.store / str(key), os.O_RDWR)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            yield fd
        finally:
            os.close(fd)

    def command(self, file: str, line: str) -> str:
        """Carry out a command and return its answer."""
        fd = os.open(self.control / file, os.O_RDWR)
        try:
            os.write(fd, f"{line}\n".encode())
            return os.read(fd, 65536).decode()
        finally:
            os.close(fd)

    def fail(self, request: Request) -> None:
        """Fail it, whole or its first page."""
        whole = request.command != "READ" or self.random.random() < 0.7
        length = request.length if whole else PAGE
        code = self.random.choice(CODES)
        self.board.note_fault(request.key)
        self.command("op_range", f"FAIL {request.name} {request.offset} {length} ZX_ERR_{code}")
        self.board.note_fault(request.key)
        if length < request.length:
            rest = request._replace(offset=request.offset + length, length=request.length - length)
            with self.locked(request.key, fcntl.LOCK_SH) as store:
                self.supply(rest, store)

    # Supplying

    def content(self, store: int, offset: int, length: int) -> bytes:
        """Return what belongs there."""
        data = os.pread(store, length, offset).ljust(length, b"\0")
        at = LIE_PAGE * PAGE - offset
        if self.lie and 0 <= at < length:
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    def supply(self, request: Request, store: int) -> None:
        """Supply what is asked for, in pieces, with more around it, or late."""
        offset, length = request.offset, request.length
        way = self.random.randrange(100)
        if way < 10:  # more than was asked for
            before = min(offset, PAGE * self.random.randrange(8))
            offset, length = offset - before, length + before + PAGE * self.random.randrange(8)
            size = (self.mount / request.name).stat().st_size
            length = min(length, max(-(-size // PAGE) * PAGE - offset, request.offset - offset + request.length))
        if way < 15:
            time.sleep(self.random.random() * 0.02)  # a slow pager
        starts = list(range(offset, offset + length, PAGE if 15 <= way < 25 else MOST))
        if 20 <= way < 25:
            self.random.shuffle(starts)
        step = PAGE if 15 <= way < 25 else MOST
        for start in starts:
            self._supply_part(request.name, store, start, min(step, offset + length - start), by_aux=way % 3 == 0)
        if way == 99:  # at once it is gone again
            self.command("evict", f"{request.name} {request.offset} {request.length}")

    def _supply_part(self, name: str, store: int, offset: int, length: int, *, by_aux: bool) -> None:
        data = self.content(store, offset, length)
        if not by_aux and any(data):
            fd = os.open(self.control / "supply" / name, os.O_WRONLY)
            try:
                os.pwrite(fd, data, offset)
            finally:
                os.close(fd)
            return
        # An aux that is nobody else's; where it has a hole the VMO gets a zero page without memory.
        fd = os.open(self.mount / self.stage_name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(fd, length)
            if any(data):
                os.pwrite(fd, data, 0)
        finally:
            os.close(fd)
        self.command("supply_pages", f"{name} {offset} {length} {self.stage_name} 0")

    # Writing back

    def write_back(self, request: Request, store: int) -> None:
        """Bring the file up to what the VMO has in a range."""
        self.command("op_range", f"WRITEBACK_BEGIN {request.name} 0 0")  # of the size, which is nothing to us
        window = f"{request.name} {request.offset} {request.length}"
        records = [line.split() for line in self.command("query_dirty_ranges", window).splitlines()[1:]]
        # Past the page cache, which shows what a writer writes before he may.
        source = os.open(self.mount / request.name, os.O_RDONLY | os.O_DIRECT)
        try:
            for offset, length, kind in records:
                flag = "is_zero" if kind == "zero" else ""
                self.command("op_range", f"WRITEBACK_BEGIN {request.name} {offset} {length} {flag}")
                data = b"" if kind == "zero" else _read_direct(source, int(offset), int(length))
                os.pwrite(store, data.ljust(int(length), b"\0"), int(offset))
        finally:
            os.close(source)
        for offset, length, _ in records:
            self.command("op_range", f"WRITEBACK_END {request.name} {offset} {length}")
        self.command("op_range", f"WRITEBACK_END {request.name} 0 0")


def _read_direct(fd: int, offset: int, length: int) -> bytes:
    with mmap.mmap(-1, length) as buffer:
        return buffer[: os.preadv(fd, [buffer], offset)]


def main() -> None:
    """Serve."""
    mount, pager, fifo, number, store, board, seed, fail_percent, lie = sys.argv[1:]
    server = Pager(Path(mount), pager, Path(store), Board(Path(board)), seed)
    server.fail_percent, server.lie = float(fail_percent), lie == "1"
    server.serve(fifo, int(number))


if __name__ == "__main__":
    main()
