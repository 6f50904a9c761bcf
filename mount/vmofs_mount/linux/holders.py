"""Who holds a mount that was unmounted: other places, other mount namespaces, and processes that have a file open.

All of it in worker threads: the memory map of a process may be locked. Nothing is asked of the mount itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vmofs_mount.linux.mountinfo import mounts, namespaces

_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BYTES = 256
_STATX_DEV = struct.Struct("=II")  # major and minor, in struct statx of <linux/stat.h>
_STATX_DEV_AT = 136
_MOST = 5
"""How many holders of a kind are named."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def holders(minor: int, but: frozenset[int] = frozenset()) -> list[str]:
    """Return a phrase for each that holds the mount with this device number, as far as the caller may see.

    ``but``: processes that are left out, of those that have something open.
    """
    return mounted_elsewhere(minor) + opened_by(minor, but)


def opened_by(minor: int, but: frozenset[int] = frozenset()) -> list[str]:
    """Return a phrase for each process that has something of the mount open, or is in it."""
    opened = (f"process {pid} ({_name(pid)}) by {what}" for pid in _processes() if pid not in but
              for what in _opened(pid, minor))  # fmt: skip
    return _some(opened)


def mounted_here(minor: int) -> list[str]:
    """Return a phrase for each place in the mount namespace of this process where the mount is."""
    return [f"the mount at {mount.path}" for mount in mounts() if mount.device == f"0:{minor}"]


def mounted_elsewhere(minor: int) -> list[str]:
    """Return a phrase for each place and each mount namespace where the mount is."""
    device = f"0:{minor}"
    found = mounted_here(minor)
    for pid in namespaces():
        with suppress(OSError):
            places = [mount.path for mount in mounts(pid) if mount.device == device]
            if places:
                found.append(f"the mount namespace of process {pid} ({_name(pid)}), at {places[0]}")
    return found[:_MOST]


def _some(phrases: Iterator[str]) -> list[str]:
    return [phrase for phrase, _ in zip(phrases, range(_MOST), strict=False)]


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208 - only names are wanted


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended"


def _opened(process: int, minor: int) -> Iterator[str]:
    """Yield how a process holds the mount: at most one phrase."""
    names = {f"/proc/{process}/cwd": "its working directory", f"/proc/{process}/root": "its root directory"}
    with suppress(OSError):
        names |= {f"/proc/{process}/fd/{fd}": f"descriptor {fd}" for fd in os.listdir(f"/proc/{process}/fd")}  # noqa: PTH208
    for path, what in names.items():
        if _minor_of(path) == minor:
            yield what
            return
    with suppress(OSError):
        if re.search(
            rf"^\S+ \S+ \S+ 00:{minor:02x} ", Path(f"/proc/{process}/maps").read_text("utf-8", "replace"), re.MULTILINE
        ):
            yield "a mapping"


def _minor_of(path: str) -> int | None:
    """Return the device of what a link in /proc stands for. ``stat`` would ask the mount for the rest."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if _LIBC.statx(_AT_FDCWD, path.encode(), _AT_STATX_DONT_SYNC, 0, answer) != 0:
        return None
    major, minor = _STATX_DEV.unpack_from(answer, _STATX_DEV_AT)
    return None if major else int(minor)
