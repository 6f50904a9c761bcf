"""Calls on the files of a mount that may have to wait: in a thread, in a process, or by a command file that is polled.

Each ends with what the call returned, or with the status that its errno stands for.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.support.pager_client import SECONDS, Background, ReaderProcess
from tests.support.writing import CommandFile
from vmofs.status import Status
from vmofs.wire.results import parse_result
from vmofs_mount.front.errno_map import ERRNO_OF_STATUS

STATUS_OF_ERRNO = {code: status for status, code in ERRNO_OF_STATUS.items()}

SIGBUS = "SIGBUS"
"""How an access of a mapping fails, whatever the status."""


class Running(Protocol):
    """A call that was started."""

    def outcome(self) -> object:
        """Wait for the end; return bytes, a number, None, or the status that it failed with."""

    def close(self) -> None:
        """Let go of what it holds."""


class InThread:
    """A system call in a thread."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._background = Background(call)

    def outcome(self) -> object:
        """Wait for the end."""
        try:
            return self._background.result()
        except OSError as error:
            return STATUS_OF_ERRNO[error.errno or 0]

    def close(self) -> None:
        """Wait for the end; whoever closes has ended what it waits for."""
        with suppress(OSError):
            self._background.result()


class ByCommand:
    """A command that goes on in the background. Its file stays open until ``close``, as a pin must."""

    def __init__(self, path: Path, line: str) -> None:
        self._file = CommandFile(path)
        self._refused = False
        try:
            self._file.write(line)
        except OSError as error:
            self._refused = True
            self._errno = error.errno

    def outcome(self) -> object:
        """Wait for the result."""
        poll = select.poll()
        poll.register(self._file.fd, select.POLLIN)
        assert poll.poll(SECONDS * 1000), "no result"
        status = parse_result(self._file.read()).status
        if self._refused:
            assert ERRNO_OF_STATUS[status] == self._errno
        return None if status is Status.OK else status

    def close(self) -> None:
        """Close the command file."""
        self._file.close()


class InProcess:
    """A load from a mapping, in a process of its own, since it may be killed by SIGBUS."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._reader = ReaderProcess.reading("mmap", path, offset, length)

    def outcome(self) -> object:
        """Wait for the end."""
        data = self._reader.next()
        if data is None:
            assert self._reader.process.wait(SECONDS) == -signal.SIGBUS
            return SIGBUS
        return data

    def close(self) -> None:
        """Kill it if it still runs."""
        self._reader.close()


def read_call(path: Path, offset: int, length: int, flags: int = 0) -> Callable[[], bytes]:
    """Return a pread; with O_DIRECT it goes to the filesystem as it is."""

    def read() -> bytes:
        fd = os.open(path, os.O_RDONLY | flags)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            with mmap.mmap(-1, length) as buffer:
                return buffer[: os.preadv(fd, [buffer], offset)]
        finally:
            os.close(fd)

    return read


def write_call(path: Path, offset: int, data: bytes, flags: int = 0) -> Callable[[], int]:
    """Return a pwrite; with O_DIRECT it does not go into the page cache."""

    def write() -> int:
        fd = os.open(path, os.O_RDWR | flags)
        try:
            return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    return write
