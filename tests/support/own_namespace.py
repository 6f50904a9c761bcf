"""A mount namespace for the tests alone: nothing else on the machine keeps what they mount, nor sees it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from vmofs_mount.linux.mountinfo import FILESYSTEM_TYPE, mounts

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def leave_mount_namespace() -> None:
    """Give this process a mount namespace of its own, if it may have one: programs that it starts are in it too.

    A mount that somebody copies into a namespace of his lives until that ends. So what others have mounted is let go
    of here: they may want to see its end, as we do.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return  # a container may forbid it
    if libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) != 0:
        if ctypes.get_errno() != errno.EINVAL:
            raise OSError(ctypes.get_errno(), "the mounts cannot be made private")
        for mount in mounts():  # in a chroot / need not be a mount
            libc.mount(b"none", os.fsencode(mount.path), None, _MS_REC_PRIVATE, None)
    for mount in reversed(list(mounts())):
        if mount.filesystem == FILESYSTEM_TYPE:
            libc.umount2(os.fsencode(mount.path), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def commands_for_others() -> str:
    """Return a command of the shell that lets others get to this interpreter, if it lies in root's home."""
    home, base = Path("/root"), Path(sys.base_prefix)
    if home not in base.parents:
        return "true"
    return (
        f"mkdir -p /run/vmofs-python && mount -t tmpfs none /run/vmofs-python && mkdir /run/vmofs-python/base && "
        f"mount --bind {base} /run/vmofs-python/base && mount -t tmpfs -o mode=755 none {home} && "
        f"mkdir -p {base} && mount --bind /run/vmofs-python/base {base}"
    )
