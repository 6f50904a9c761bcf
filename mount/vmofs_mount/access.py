"""Names in commands become handles by the kernel's own permission check, with the identity of the caller.

vmofs computes no permission. A worker thread takes the identity (uid, gid, supplementary groups) of whoever opened the
command file, walks to the named file through the mount, and asks the kernel whether that identity may use it so. The
file itself is only opened as a path: an open for writing would fail, and make others fail, while a program is executed
from it (ETXTBSY).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_AT_EACCESS = 0x200
_AT_EMPTY_PATH = 0x1000
_SYS_FACCESSAT2 = 439  # the same on every architecture
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who opened a file."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of_process(cls, uid: int, gid: int, pid: int) -> Identity:
        """Return the identity of a process that is waiting for us, with its supplementary groups."""
        return cls(uid, gid, _supplementary_groups(pid))


@dataclass(frozen=True, slots=True)
class Examined:
    """What a walk to a name found. ``errno`` 0: the identity may use it in the way it asked for."""

    ino: int
    device: int
    errno: int


def examine(path: str, mode: int, identity: Identity) -> Examined:
    """Walk to a path through the mount and ask whether ``identity`` has ``mode`` (os.R_OK | os.W_OK | os.X_OK) there.

    In a worker thread. ``ino`` is 0 if the walk itself failed.
    """
    with _as(identity):
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            return Examined(0, 0, error.errno or errno.EIO)
        try:
            status = os.fstat(fd)
            return Examined(status.st_ino, status.st_dev, _access(fd, mode))
        finally:
            os.close(fd)


def _access(fd: int, mode: int) -> int:
    result = _LIBC.syscall(_SYS_FACCESSAT2, fd, b"", mode, _AT_EMPTY_PATH | _AT_EACCESS)
    return 0 if result == 0 else ctypes.get_errno()


@contextmanager
def _as(identity: Identity) -> Iterator[None]:
    """Let this thread, and no other, have the identity on filesystems. Only root can; others are who they are."""
    if os.geteuid() != 0 or identity.uid == 0:  # with uid 0 the check is that of the daemon itself
        yield
        return
    own_groups = os.getgroups()
    try:
        _set_groups(identity.groups)
        _LIBC.setfsgid(identity.gid)
        _LIBC.setfsuid(identity.uid)
        if _LIBC.setfsuid(-1) != identity.uid:
            raise OSError(errno.EPERM, f"cannot take the identity of uid {identity.uid}")
        yield
    finally:
        _LIBC.setfsuid(0)
        _LIBC.setfsgid(os.getegid())
        _set_groups(tuple(own_groups))


def _set_groups(groups: tuple[int, ...]) -> None:
    """Set the supplementary groups of this thread only: libc's function would change all threads."""
    array = (ctypes.c_uint * len(groups))(*groups)
    if _LIBC.syscall(_SYS_SETGROUPS[platform.machine()], len(groups), array) != 0:
        raise OSError(ctypes.get_errno(), "setgroups")


def _supplementary_groups(pid: int) -> tuple[int, ...]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()  # a process outside this pid namespace: it has the groups that can be proven, none
    for line in status.splitlines():
        if line.startswith("Groups:"):
            return tuple(int(group) for group in line.split()[1:])
    return ()
