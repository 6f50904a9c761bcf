"""Settings of the kernel that a mount needs, and that only files in /sys can change (fuse-facts 1 and 3).

Without them vmofs works, but page requests name more than was touched, and only some dozen of them can be
outstanding.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_BACKGROUND = 65535
"""Reads of waiting readers that may be outstanding; the kernel's default is 12."""

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_PARAMETERS = Path("/sys/module/fuse/parameters")

# The new mount calls have these numbers on every architecture (Linux 5.2).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


def tune(minor: int, read_ahead_bytes: int) -> list[str]:
    """Change the settings of the mount with this device number; return a sentence for each that could not be.

    ``read_ahead_bytes`` is never 0: then a reader that waits in a page fault cannot be killed.
    """
    degraded = []
    try:
        _read_ahead_of(minor).write_text(str(read_ahead_bytes // 1024), encoding="ascii")
    except OSError as error:
        degraded.append(
            f"read-ahead cannot be set, for no file, and is not {read_ahead_bytes} bytes: requests name more or less "
            f"than they should: {error}"
        )
    try:
        with _connections() as directory:
            allowed = [
                _raise(directory, f"{minor}/max_background", "max_user_bgreq"),
                _raise(directory, f"{minor}/congestion_threshold", "max_user_congthresh"),
            ]
    except OSError as error:
        degraded.append(f"max_background cannot be raised, at most 12 requests can be outstanding: {error}")
    else:
        if min(allowed) < MAX_BACKGROUND:
            degraded.append(
                f"max_background can be raised to {min(allowed)} only, not {MAX_BACKGROUND}: so many requests can be "
                f"outstanding, more if root writes to {_PARAMETERS}/max_user_bgreq and max_user_congthresh"
            )
    return degraded


def _raise(directory: int, path: str, parameter: str) -> int:
    """Set a limit of a connection as high as this user may, which a parameter of the module says; return it."""
    try:
        _write(directory, path, str(MAX_BACKGROUND))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        allowed = int((_PARAMETERS / parameter).read_text(encoding="ascii"))
        _write(directory, path, str(allowed))
        return allowed
    return MAX_BACKGROUND


def open_abort(minor: int) -> int:
    """Return a descriptor; writing to it breaks the connection of the mount with this device number, and no other.

    Raises:
        OSError: it cannot be had: no fusectl is mounted, and only root can do without.
    """
    with _connections() as directory:
        return os.open(f"{minor}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)


def break_connection(minor: int) -> None:
    """Break the connection of the mount with this device number: who waits there gets an error.

    Raises:
        OSError: as ``open_abort``.
    """
    abort = open_abort(minor)
    try:
        os.write(abort, b"1")
    finally:
        os.close(abort)


def read_ahead_kb_of(minor: int) -> int | None:
    """Return the read-ahead of a mount, None if it cannot be read."""
    return _number_in(lambda: _read_ahead_of(minor).read_text(encoding="ascii"))


def open_read_ahead(minor: int) -> int:
    """Return a descriptor; what is written to it, in KiB, is the read-ahead of files that are opened afterwards.

    Raises:
        OSError: only root may have it.
    """
    return os.open(_read_ahead_of(minor), os.O_WRONLY | os.O_CLOEXEC)


def _read_ahead_of(minor: int) -> Path:
    return Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb")


def max_background_of(minor: int) -> int | None:
    """Return how many reads of a mount may be outstanding, None if it cannot be read."""

    def read() -> str:
        with _connections() as directory:
            fd = os.open(f"{minor}/max_background", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                return os.read(fd, 100).decode()
            finally:
                os.close(fd)

    return _number_in(read)


def _number_in(read: Callable[[], str]) -> int | None:
    try:
        return int(read())
    except (OSError, ValueError):
        return None


@contextmanager
def _connections() -> Iterator[int]:
    """Open the directory of FUSE connections; where it is not mounted, mount it for nobody else to see."""
    mounted = next(_CONNECTIONS.iterdir(), None) if _CONNECTIONS.is_dir() else None
    fd = os.open(_CONNECTIONS, os.O_RDONLY | os.O_DIRECTORY) if mounted else _detached_fusectl()
    try:
        yield fd
    finally:
        os.close(fd)  # unmounts a detached one


def _detached_fusectl() -> int:
    """Return a directory of a fusectl that has no mount point. Needs root."""
    context = _syscall("fsopen", _SYS_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        _syscall("fsconfig", _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(name: str, number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def _write(directory: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
