"""The real directory: where each served file has its content, and how names there are given and taken.

A file is known by its inode, names come and go. One that has lost its last name in the mount and is still open there
has its content set aside, below ``ASIDE`` in the directory, until nobody has it any more.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TypeAlias

ASIDE = ".vmofs-aside"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""


class File:
    """A file that is served: its key in the mount, and where its content is."""

    def __init__(self, key: int, identity: Identity | None = None) -> None:
        self.key, self.identity = key, identity
        self.places: set[str] = set()
        """Its names in the real directory, as far as they are known."""
        self.changes = 0
        """How often it was written back; what was read before the last time may be old."""
        self.is_gone = False
        """Whether nobody has it in the mount any more."""
        self.version: tuple[int, int] | None = None
        """Size and time of the content that is promised, if it is served read-only."""
        self.lock = threading.Lock()


def identity_of(status: os.stat_result) -> Identity:
    """Return what tells a file from others."""
    return status.st_dev, status.st_ino


class Backing:
    """The real directory. All places are paths in it."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.files: dict[Identity, File] = {}
        self._lock = threading.RLock()

    def path(self, place: str) -> str:
        """Return where a place is."""
        return f"{self.top}/{place}" if place else self.top

    def status(self, place: str) -> os.stat_result | None:
        """Return what is at a place, or None."""
        try:
            return os.lstat(self.path(place))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def know(self, file: File, place: str, identity: Identity) -> None:
        """Learn that a file has its content at a place."""
        with self._lock:
            file.identity = identity
            file.places.add(place)
            self.files[identity] = file

    def open(self, file: File, flags: int) -> int:
        """Open the content of a file, wherever it is.

        Raises:
            OSError: It cannot be opened; ENOENT, it is nowhere.
        """
        for _ in range(2):
            for place in list(file.places):
                with suppress(FileNotFoundError, NotADirectoryError):
                    fd = self._open(place, flags)
                    if identity_of(os.fstat(fd)) == file.identity:
                        return fd
                    os.close(fd)
            with self._lock:  # while a name is given or taken it may be at none of its places
                pass
        raise FileNotFoundError(errno.ENOENT, "its content is not in the directory any more", self.top)

    def _open(self, place: str, flags: int) -> int:
        path = self.path(place)
        try:
            return os.open(path, flags | _OPEN)
        except PermissionError:
            if flags & os.O_ACCMODE == os.O_RDONLY:
                raise
            os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) | stat.S_IWUSR)  # it gets its mode when it is written
            return os.open(path, flags | _OPEN)

    def read(self, file: File, offset: int, length: int) -> bytes:
        """Return bytes of a file, as far as it goes; zeros behind that.

        Raises:
            OSError: They cannot be had.
        """
        fd = self.open(file, os.O_RDONLY)
        try:
            data = os.pread(fd, length, offset)
            while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                data += more
            if file.version is not None:
                status = os.fstat(fd)
                if (status.st_size, status.st_mtime_ns) != file.version:
                    raise OSError(errno.EBADMSG, "it was changed in the directory")
            return data.ljust(length, b"\0")
        finally:
            os.close(fd)

    def size(self, file: File) -> int:
        """Return how large the content of a file is.

        Raises:
            OSError: It cannot be opened.
        """
        fd = self.open(file, os.O_RDONLY)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    # Names

    def create(self, file: File, place: str) -> None:
        """Make an empty file; what was at its place goes."""
        with self._lock:
            self.clear(place)
            fd = os.open(self.path(place), os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
            try:
                self.know(file, place, identity_of(os.fstat(fd)))
            finally:
                os.close(fd)

    def give_name(self, file: File, place: str) -> None:
        """Let a file that is somewhere have this name too; what has it now gives it up, in one step."""
        with self._lock:
            occupant = self.status(place)
            if occupant is not None:
                if identity_of(occupant) == file.identity:
                    file.places.add(place)
                    return
                if stat.S_ISDIR(occupant.st_mode):
                    self.clear(place)
                else:
                    self._save(place, occupant)
            # Not straight to the place: that has another file, which is to be there until this one is.
            between = self._aside(f"{file.key}-to")
            source = next(each for each in sorted(file.places) if self.is_at(file, each))
            try:
                with suppress(FileNotFoundError):
                    os.unlink(self.path(between))  # of one that was killed
                os.link(self.path(source), self.path(between), follow_symlinks=False)
                os.rename(self.path(between), self.path(place))
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(self.path(source), self.path(place))
                file.places.discard(source)
            file.places.add(place)
            if self._is_aside(source):
                self._unlink(file, source)

    def take_name(self, place: str) -> None:
        """Remove a name. A file that is still open in the mount keeps its content."""
        with self._lock:
            occupant = self.status(place)
            if occupant is None:
                return
            if stat.S_ISDIR(occupant.st_mode):
                os.rmdir(self.path(place))
                return
            self._save(place, occupant)
            os.unlink(self.path(place))

    def clear(self, place: str) -> None:
        """Let nothing be at a place."""
        with self._lock:
            occupant = self.status(place)
            if occupant is not None and stat.S_ISDIR(occupant.st_mode):
                with os.scandir(self.path(place)) as entries:
                    names = [entry.name for entry in entries]
                for name in names:
                    self.clear(f"{place}/{name}")
            self.take_name(place)

    def set_aside(self, file: File) -> str:
        """Give a file without a name a place for its content; return it."""
        place = self._aside(str(file.key))
        if file.identity is None:
            self.create(file, place)
        return place

    def forget(self, file: File) -> None:
        """Let a file go that nobody has any more."""
        with self._lock:
            file.is_gone = True
            for place in list(file.places):
                if self._is_aside(place):
                    self._unlink(file, place)
            if not file.places and file.identity is not None:
                self.files.pop(file.identity, None)

    def tidy(self) -> None:
        """Remove the place for what is set aside, if there is nothing."""
        with suppress(OSError):
            os.rmdir(self.path(ASIDE))

    def _save(self, place: str, occupant: os.stat_result) -> None:
        """See to it that a file keeps its content when it loses this name."""
        file = self.files.get(identity_of(occupant))
        if file is None:
            return
        file.places.discard(place)
        if file.is_gone:
            if not file.places:
                self.files.pop(identity_of(occupant), None)
        elif not any(self.is_at(file, other) for other in file.places):
            aside = self._aside(str(file.key))
            try:
                os.link(self.path(place), self.path(aside), follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(self.path(place), self.path(aside))
                os.close(os.open(self.path(place), os.O_CREAT | os.O_WRONLY | _OPEN, 0o600))
            file.places.add(aside)

    def is_at(self, file: File, place: str) -> bool:
        """Return whether a place has the content of a file."""
        status = self.status(place)
        return status is not None and identity_of(status) == file.identity

    def _unlink(self, file: File, place: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path(place))
        file.places.discard(place)

    def _aside(self, name: str) -> str:
        with suppress(FileExistsError):
            os.mkdir(self.path(ASIDE), 0o700)
        return f"{ASIDE}/{name}"

    @staticmethod
    def _is_aside(place: str) -> bool:
        return PurePosixPath(place).parts[0] == ASIDE
