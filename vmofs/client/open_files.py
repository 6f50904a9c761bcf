"""Files of a mount that are held open, shared by threads, and may be closed at any time: what pages are supplied by."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmofs.client.pager import Data
from vmofs.wire.answers import MOST_RECORDS, Answer, count_answered, format_answers

_MOST_BYTES = (1 << 20) - (1 << 17)
"""Of one write of many answers: the kernel cuts what is longer than 1 MiB, records and all."""


class OpenFile:
    """A file that is open until it is closed and nobody uses it any more.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC)
        self._users = 0
        self._is_closed = False
        self._lock = threading.Lock()

    @contextmanager
    def in_use(self) -> Iterator[int]:
        """Use the descriptor, which stays open in this block.

        Raises:
            FileNotFoundError: It was closed.
        """
        with self._lock:
            if self._is_closed:
                raise FileNotFoundError(errno.ENOENT, "nobody has it any more", str(self._path))
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                self._let_go()

    def close(self) -> None:
        """Close it as soon as nobody uses it any more: sooner, its number might be another file's."""
        with self._lock:
            self._is_closed = True
            self._let_go()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def _let_go(self) -> None:
        if self._is_closed and not self._users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SupplyFile(OpenFile):
    """Where pages of one VMO are written to, in ``supply/``. It stays that VMO's, whatever is renamed.

    Raises:
        FileNotFoundError: No VMO of the pager has this name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_WRONLY)

    def write(self, offset: int, data: Data) -> None:
        """Supply whole pages; the last page of the file may be short.

        Raises:
            FileNotFoundError: It was closed.
            OSError: As the errno of README's table.
        """
        with self.in_use() as fd:
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, offset)
                offset, view = offset + written, view[written:]


class AnswersFile(OpenFile):
    """Where many pages, of any VMOs of a pager, are written to at once: its file ``answers``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDWR)

    def supply(self, answers: Sequence[Answer]) -> int:
        """Supply in as few writes as can be, in order; return how many were before one was refused.

        Raises:
            OSError: The first one was.
        """
        done = 0
        with self.in_use() as fd:
            while done < len(answers):
                batch = answers[done : done + _fitting(answers[done:])]
                try:
                    done += count_answered(batch, os.writev(fd, format_answers(batch)))
                except OSError:
                    if done:
                        break
                    raise
        return done


def _fitting(answers: Sequence[Answer]) -> int:
    """Return how many go into one write; at least one."""
    size = 0
    for count, answer in enumerate(answers[:MOST_RECORDS]):
        size += len(answer.data)
        if size > _MOST_BYTES:
            return max(1, count)
    return min(len(answers), MOST_RECORDS)
