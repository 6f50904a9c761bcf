"""What is mounted where, read from /proc/PID/mountinfo: unlike ``stat`` that never asks the filesystem itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILESYSTEM_TYPE = "fuse.vmofs"


class MountPoint(NamedTuple):
    """One mount.

    ``number`` is the kernel's for this mount, and no other that there is at the same time; ``root`` is what of the
    filesystem is mounted, ``/`` but for some bind mounts; ``device`` is ``major:minor``, as in ``st_dev``; ``options``
    are those of the filesystem.
    """

    number: int
    root: str
    path: str
    filesystem: str
    device: str
    options: str

    @property
    def uid(self) -> int:
        """Who mounted a FUSE filesystem."""
        found = re.search(r"(?:^|,)user_id=(\d+)", self.options)
        return int(found[1]) if found else 0

    @property
    def minor(self) -> int:
        """The number of the FUSE connection."""
        return int(self.device.partition(":")[2])


def mount_at(path: str) -> MountPoint | None:
    """Return the topmost mount at exactly this absolute path without symbolic links, if any."""
    found = None
    for mount in mounts():
        if mount.path == path:
            found = mount
    return found


def mounts(process: int | str = "self") -> Iterator[MountPoint]:
    """Yield what is mounted in the mount namespace of a process, as far as it can see it.

    Raises:
        OSError: there is no such process, or it may not be looked at.
    """
    text = Path(f"/proc/{process}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return map(_parse, text.splitlines())


def namespaces() -> Iterator[int]:
    """Yield a process of each mount namespace other than ours, as far as they may be looked at."""
    seen = {_namespace("self"), ""}
    for name in os.listdir("/proc"):  # noqa: PTH208 - only names are wanted
        if name.isdecimal():
            namespace = _namespace(name)
            if namespace not in seen:
                seen.add(namespace)  # another process of it may see more, if it has another root; that is rare
                yield int(name)


def _namespace(process: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")  # noqa: PTH115 - no path of a file
    except OSError:
        return ""  # it has ended, or is another user's


def resolved(path: str) -> str:
    """Return a path without symbolic links. What is mounted there is not asked, which may not answer."""
    before, name = os.path.split(path.rstrip("/"))
    if name not in {"", ".", ".."}:
        mountpoint = os.path.join(os.path.realpath(before), name)  # noqa: PTH118 - as mountinfo has it
        if mount_at(mountpoint) is not None:
            return mountpoint
    return os.path.realpath(path)


def _parse(line: str) -> MountPoint:
    """Parse ``36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 source rw`` (proc_pid_mountinfo(5))."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    filesystem, _, options = after.split(" ")
    return MountPoint(int(fields[0]), _unescape(fields[3]), _unescape(fields[4]), filesystem, fields[2], options)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
