"""A command file, held open: commands in, results out, errors as exceptions with the status and the sentence."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from pathlib import Path

from vmofs.status import InvalidArgsError
from vmofs.wire.commands import Command, format_command
from vmofs.wire.results import Result, parse_result

_READ_BYTES = 1 << 16
_MOST_BYTES = 60 << 10
"""Of one write of many commands: the kernel cuts what is longer than its own largest request."""


class CommandFile:
    """One of the files of ``control/``. Threads may share it; a command and its result stay together.

    What is held open keeps the names that were used with it: a file that was renamed or removed since is still meant.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._lock = threading.Lock()

    def run(self, command: Command, seconds: float | None = None) -> Result:
        """Carry out a command and return its result, for which a command that waits for pages has to wait.

        Raises:
            VmoError: It failed; the subclass of its status, with the sentence.
            TimeoutError: It is not finished after ``seconds``; it goes on.
            OSError: The file cannot be opened: no such pager, no permission, no mount.
        """
        with self._lock:
            self._write(f"{format_command(command)}\n".encode())
            result = self._result(seconds)
        result.raise_for_status()
        return result

    def run_many(self, commands: Sequence[Command]) -> int:
        """Carry out commands, many in each write, and return how many were carried out before one failed.

        Raises:
            VmoError: The first one failed.
            OSError: As of ``run``.
        """
        lines = [f"{format_command(command)}\n".encode() for command in commands]
        done = 0
        with self._lock:
            while done < len(lines):
                count = _fitting(lines, done)
                data = b"".join(lines[done : done + count])
                try:
                    written = self._write(data)
                except Exception:
                    if done:
                        return done
                    raise
                done += data[:written].count(b"\n")
        return done

    def close(self) -> None:
        """Close it, if it is open; what it keeps goes: names, and pins."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _write(self, data: bytes) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return os.write(self._fd, data)
        except OSError as error:
            try:
                result = self._result(0.0)
            except (OSError, InvalidArgsError):
                raise error from None  # there is no mount any more, or no pager
            result.raise_for_status()
            raise

    def _result(self, seconds: float | None) -> Result:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(None if seconds is None else seconds * 1000):
            raise TimeoutError(f"{self.path.name} has not finished within {seconds} s")
        text = b""
        while piece := os.read(self._fd, _READ_BYTES):
            text += piece
        return parse_result(text.decode())


def _fitting(lines: Sequence[bytes], start: int) -> int:
    """Return how many lines go into one write; at least one."""
    size = 0
    for count, line in enumerate(lines[start:]):
        size += len(line)
        if size > _MOST_BYTES:
            return max(1, count)
    return len(lines) - start
