"""Mode, owner, times and extended attributes of a file, brought from one place to another."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

_FOR_ALL = ("user.", "system.posix_acl_access", "system.posix_acl_default")
_FOR_ROOT = ("security.", "trusted.")
_NOT = ("security.selinux",)
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}


def bring(
    source: str, wanted: os.stat_result, target: str, tell: Callable[[str], None], *, is_new: bool = False
) -> None:
    """Give a file what another has: owner (as root), mode, extended attributes, and last the time of change.

    Args:
        source: The file that has them.
        wanted: Its status.
        target: The file that gets them.
        tell: Is told what the target cannot have.
        is_new: The target was just made, and has no extended attributes.

    Raises:
        OSError: One of them is gone, or may not be changed.
    """
    now = os.lstat(target)
    is_root = os.geteuid() == 0
    is_link = stat.S_ISLNK(wanted.st_mode)
    has_owner = (now.st_uid, now.st_gid) == (wanted.st_uid, wanted.st_gid)
    if is_root and not has_owner:
        os.chown(target, wanted.st_uid, wanted.st_gid, follow_symlinks=False)
    mode = stat.S_IMODE(wanted.st_mode)
    if not is_link and (stat.S_IMODE(now.st_mode) != mode or (is_root and not has_owner)):
        os.chmod(target, mode)
    _bring_xattrs(source, target, tell, is_new=is_new)
    if now.st_mtime_ns != wanted.st_mtime_ns:
        os.utime(target, ns=(now.st_atime_ns, wanted.st_mtime_ns), follow_symlinks=False)


def _bring_xattrs(source: str, target: str, tell: Callable[[str], None], *, is_new: bool) -> None:
    wanted = _names(source)
    there = set() if is_new and not wanted else _names(target)
    for name in wanted:
        value = os.getxattr(source, name, follow_symlinks=False)
        try:
            if name not in there or os.getxattr(target, name, follow_symlinks=False) != value:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _UNSUPPORTED | {errno.EPERM}:
                raise
            tell(f"attributes {name.partition('.')[0]}.* are left out: {error.strerror}")
    for name in there - wanted:
        os.removexattr(target, name, follow_symlinks=False)


def _names(path: str) -> set[str]:
    """Return the names of attributes that go through."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return set()
        raise
    kinds = _FOR_ALL + _FOR_ROOT if os.geteuid() == 0 else _FOR_ALL
    return {name for name in names if name.startswith(kinds) and name not in _NOT}
