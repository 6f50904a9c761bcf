"""Names in commands become handles by the kernel's own permission check, with the identity of the caller.

vmofs computes no permission. It finds the directories and the file that a name stands for in its own tree; then a
worker thread takes the identity (uid, gid, supplementary groups) of whoever opened the command file, and asks the
kernel whether that identity may search each of the directories, and use the file so. They are only opened as paths: an
open for writing would fail, and make others fail, while a program is executed from the file (ETXTBSY).

They are opened by their inode numbers. To look a name up the kernel may have to lock a directory, and whoever has it
locked, to make a link of the command file say, may wait for the very command that asks. Only without
CAP_DAC_READ_SEARCH names are looked up, from the root of the mount and never leaving it: a filesystem that somebody
mounted below could keep the thread waiting for ever.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from vmofs_mount.linux.place import Place

_AT_EACCESS = 0x200
_AT_EMPTY_PATH = 0x1000
_SYS_OPENAT2 = 437  # this and the next are the same on every architecture
_SYS_FACCESSAT2 = 439
_FILEID_INO64_GEN = 0x81
_FILE_HANDLE = struct.Struct("=IiIII")  # length, type, and FUSE's: the upper and lower half of ino, generation
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 1, 2, 4, 8
_SYS_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "loongarch64": 159,
    "ppc64le": 81,
    "s390x": 206,
    "armv7l": 206,
}
_SYS_CAPGET_CAPSET = {
    "x86_64": (125, 126),
    "aarch64": (90, 91),
    "riscv64": (90, 91),
    "loongarch64": (90, 91),
    "ppc64le": (183, 184),
    "s390x": (184, 185),
    "armv7l": (184, 185),
}
_CAP_HEADER = struct.Struct("=Ii")  # version, thread
_CAP_DATA = struct.Struct("=6I")  # effective, permitted, inheritable; once more for the upper 32
_CAP_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1 << 1
_CAP_DAC_READ_SEARCH = 1 << 2
_CAP_FSETID = 1 << 4
_CAP_SETGID = 1 << 6
_CAP_SETUID = 1 << 7
_STATUS_FIELDS = re.compile(r"^(Umask|Groups|CapEff):\t(.*)$", re.MULTILINE)

_LIBC = ctypes.CDLL(None, use_errno=True)
for _function in (_LIBC.setfsuid, _LIBC.setfsgid):
    _function.argtypes, _function.restype = [ctypes.c_uint32], ctypes.c_uint32  # an int would make uid 2^32-2 negative

_OPENED_TOGETHER = 16
"""Directories that a thread has open at the same time."""

_OWN_UID = 0xFFFF_FFFF
"""Asks setfsuid for the present value: it is nobody's."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who opened a file.

    Attributes:
        uid: for access to files.
        gid: for access to files.
        groups: the supplementary ones.
        umask: for files that commands make.
        overrides: passes mode bits and ACLs, as root does unless that capability was taken from it.
        keeps_set_id: has CAP_FSETID, so that files which it changes keep set-user-ID.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    umask: int = 0o022
    overrides: bool = False
    keeps_set_id: bool = False

    @classmethod
    def of_process(cls, uid: int, gid: int, pid: int) -> Identity:
        """Return the identity of a process that is waiting for us.

        Of a process that lives outside this pid namespace (``pid`` 0) we know uid and gid only.
        """
        status = _process_status(pid)
        groups = tuple(int(group) for group in status.get("Groups", "").split())
        capabilities = int(status.get("CapEff", "0"), 16)
        # In another user namespace capabilities are about other things.
        overrides = uid == 0 and bool(capabilities & _CAP_DAC_OVERRIDE) and _is_in_own_user_namespace(pid)
        keeps_set_id = bool(capabilities & _CAP_FSETID) and _is_in_own_user_namespace(pid)
        return cls(uid, gid, groups, int(status.get("Umask", "022"), 8), overrides, keeps_set_id)

    def is_member(self, gid: int) -> bool:
        """Return whether this is one of its groups."""
        return gid == self.gid or gid in self.groups


class Examined(NamedTuple):
    """What the kernel says. ``found``: all directories on the way may be searched; ``errno`` 0: and the file used."""

    found: bool
    errno: int


def can_examine(identity: Identity) -> bool:
    """Return whether ``examine`` can find out about this identity: root about all, others only about themselves."""
    return os.geteuid() in {0, identity.uid}


def can_take_identities() -> bool:
    """Return whether this process may act for others on filesystems."""
    if os.geteuid() != 0:
        return False
    return _own_capabilities() & (_CAP_SETUID | _CAP_SETGID) == _CAP_SETUID | _CAP_SETGID


def _own_capabilities() -> int:
    return int(_process_status(os.getpid()).get("CapEff", "0"), 16)


def can_open_inodes() -> bool:
    """Return whether this process may open files by their inode numbers."""
    return os.geteuid() == 0 and bool(_own_capabilities() & _CAP_DAC_READ_SEARCH)


def examine(place: Place, directories: Sequence[int], ino: int, mode: int, identity: Identity) -> Examined:
    """Ask whether ``identity`` may search directories, and has ``mode`` (os.R_OK | os.W_OK | os.X_OK) on a file.

    ``ino`` 0 stands for no file. In a worker thread, if ``can_open_inodes``.
    """
    asked = [(number, os.X_OK) for number in directories] + ([(ino, mode)] if ino else [])
    with place.opened_root(os.O_RDONLY) as root:
        for first in range(0, len(asked), _OPENED_TOGETHER):  # a path may have 2,000 components
            some = asked[first : first + _OPENED_TOGETHER]
            for number, refused in enumerate(_refusals(root, some, identity), start=first):
                if refused:
                    return Examined(found=number >= len(directories), errno=refused)
    return Examined(found=True, errno=0)


def _refusals(root: int, asked: Sequence[tuple[int, int]], identity: Identity) -> list[int]:
    """Return for each inode the errno with which a use is refused, or 0."""
    with ExitStack() as stack:
        opened = []
        for number, _ in asked:
            opened.append(_open_inode(root, number))
            stack.callback(os.close, opened[-1])
        with _as(identity):
            return [_access(fd, mode) for fd, (_, mode) in zip(opened, asked, strict=True)]


def examine_path(place: Place, path: str, mode: int, identity: Identity) -> Examined:
    """Ask as ``examine`` does, of all directories on the way to ``path`` and what it stands for. In a worker thread."""
    with place.opened_root(os.O_PATH) as root, _as(identity):
        fd = _open_path(root, path)
        if fd < 0:
            return Examined(found=False, errno=-fd)
        try:
            return Examined(found=True, errno=_access(fd, mode))
        finally:
            os.close(fd)


@contextmanager
def opened_inode(place: Place, ino: int) -> Iterator[int]:
    """Open an inode as a path, whether it has a name or not. In a worker thread, if ``can_open_inodes``.

    Raises:
        OSError: the kernel does not know it, or the mount is not found.
    """
    with place.opened_root(os.O_RDONLY) as root:
        fd = _open_inode(root, ino)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_inode(root: int, ino: int) -> int:
    """Open an inode as a path, whether it has a name or not."""
    handle = _FILE_HANDLE.pack(12, _FILEID_INO64_GEN, ino >> 32, ino & 0xFFFF_FFFF, 0)
    fd: int = _LIBC.open_by_handle_at(root, handle, os.O_PATH | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"inode {ino} cannot be opened")
    return fd


def _open_path(root: int, path: str) -> int:
    """Return a descriptor, or minus the errno."""
    resolve = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
    how = _OPEN_HOW.pack(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, resolve)
    fd: int = _LIBC.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, len(how))
    return fd if fd >= 0 else -ctypes.get_errno()


def _access(fd: int, mode: int) -> int:
    result = _LIBC.syscall(_SYS_FACCESSAT2, fd, b"", mode, _AT_EMPTY_PATH | _AT_EACCESS)
    return 0 if result == 0 else ctypes.get_errno()


@contextmanager
def _as(identity: Identity) -> Iterator[None]:
    """Let this thread, and no other, have the identity on filesystems. Only root can; others are who they are."""
    if os.geteuid() != 0:
        if identity.uid not in {0, os.geteuid()}:
            raise PermissionError(errno.EPERM, f"only root can act for uid {identity.uid}")
        yield
        return
    own_groups = os.getgroups()
    try:
        _set_groups(identity.groups)
        _LIBC.setfsgid(identity.gid)
        _LIBC.setfsuid(identity.uid)  # takes the capabilities of a superuser on filesystems away too, except for uid 0
        if _LIBC.setfsuid(_OWN_UID) != identity.uid or _LIBC.setfsgid(_OWN_UID) != identity.gid:
            raise PermissionError(errno.EPERM, f"cannot take the identity of uid {identity.uid}")
        if identity.uid == 0 and not identity.overrides:
            _set_override(on=False)
        yield
    finally:
        if identity.uid == 0 and not identity.overrides:
            _set_override(on=True)
        _LIBC.setfsuid(0)
        _LIBC.setfsgid(os.getegid())
        _set_groups(tuple(own_groups))


def _set_groups(groups: tuple[int, ...]) -> None:
    """Set the supplementary groups of this thread only: libc's function would change all threads."""
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _thread_syscall(_SYS_SETGROUPS, "setgroups", len(groups), array)


def _set_override(*, on: bool) -> None:
    """Let this thread pass mode bits, or not."""
    mask = _CAP_DAC_OVERRIDE | _CAP_DAC_READ_SEARCH
    capget, capset = _SYS_CAPGET_CAPSET[platform.machine()]
    header = ctypes.create_string_buffer(_CAP_HEADER.pack(_CAP_VERSION_3, 0))
    data = ctypes.create_string_buffer(_CAP_DATA.size)
    _syscall("capget", capget, header, data)
    effective, permitted, *others = _CAP_DATA.unpack(data.raw)
    effective = effective | (mask & permitted) if on else effective & ~mask
    _syscall("capset", capset, header, _CAP_DATA.pack(effective, permitted, *others))


def _thread_syscall(numbers: dict[str, int], name: str, *arguments: object) -> None:
    number = numbers.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of {name} on {platform.machine()} is not known")
    _syscall(name, number, *arguments)


def _syscall(name: str, number: int, *arguments: object) -> None:
    if _LIBC.syscall(number, *arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def _process_status(pid: int) -> dict[str, str]:
    """Return what is of interest in ``/proc/PID/status``, nothing if there is no such process.

    Raises:
        OSError: it cannot be read for another reason: who has no groups may be granted more than who has some.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - for each open of a command file: a Path is slow
            text = file.read().decode("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(_STATUS_FIELDS.findall(text))


def _is_in_own_user_namespace(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")  # noqa: PTH115 - as above
    except OSError:
        return False
