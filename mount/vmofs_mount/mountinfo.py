"""What is mounted where, read from /proc/self/mountinfo: unlike ``stat`` that never asks the filesystem itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FILESYSTEM_TYPE = "fuse.vmofs"


class MountPoint(NamedTuple):
    """One mount. ``device`` is ``major:minor``, as in ``st_dev``."""

    path: str
    filesystem: str
    device: str

    @property
    def minor(self) -> int:
        """The number of the FUSE connection."""
        return int(self.device.partition(":")[2])


def mount_at(path: str) -> MountPoint | None:
    """Return the topmost mount at exactly this absolute path without symbolic links, if any."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mount = _parse(line)
        if mount.path == path:
            found = mount
    return found


def _parse(line: str) -> MountPoint:
    """Parse ``36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 source rw`` (proc_pid_mountinfo(5))."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    return MountPoint(path=_unescape(fields[4]), filesystem=after.split(" ")[0], device=fields[2])


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
