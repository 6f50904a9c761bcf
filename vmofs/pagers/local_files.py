"""Files of this machine: one, or all of a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vmofs.client import Changed, Unavailable
from vmofs.pagers.source import ExitCode, Refusal, Source


class LocalFile(Source):
    """A file. That it was changed is seen by inode, size and time of change, looked at before and after each read.

    It is opened for each read (some 10 us), so that a directory of any size needs no descriptors.

    Raises:
        Refusal: It cannot be opened, or is no regular file.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._path = path.absolute()
        self.name = name or path.name
        self.url = self._path.as_uri()
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no waiting at a FIFO
        except FileNotFoundError as error:
            raise Refusal(f"{path} does not exist", ExitCode.NOT_FOUND) from error
        except PermissionError as error:
            raise Refusal(f"{path} may not be read", ExitCode.NOT_ALLOWED) from error
        except OSError as error:
            raise Refusal(f"{path}: {error.strerror}", ExitCode.OTHER) from error
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refusal(f"{path} is no regular file")
        self.size, self._first = status.st_size, _identity(status)
        self.version = "{}-{}-{}".format(*self._first)
        self._stale = False

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes."""
        if self._stale:
            raise Changed(f"{self._path} was changed")
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            self._stale = True
            raise Changed(f"{self._path} does not exist any more") from error
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error
        try:
            data = self._read_all(descriptor, offset, length)
            # After the read: whoever changed the file before it has been seen then, at the latest.
            if _identity(os.fstat(descriptor)) != self._first:
                self._stale = True
                raise Changed(f"{self._path} was changed")
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise Unavailable(f"{self._path} gave {len(data)} of {length} bytes")
        return data

    @staticmethod
    def _read_all(descriptor: int, offset: int, length: int) -> bytes:
        data = os.pread(descriptor, length, offset)
        while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
            data += more
        return data


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def files_of(directory: Path) -> Iterator[LocalFile]:
    """Yield the regular files below a directory, named by their path in it. Links to directories are not followed."""
    for folder, directories, files in os.walk(directory):
        directories.sort()
        for file in sorted(files):
            path = Path(folder, file)
            if path.is_file():
                yield LocalFile(path, str(path.relative_to(directory)))
