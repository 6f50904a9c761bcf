"""Where a user's own mount is, and which mount a path lies in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vmofs.pagers.source import ExitCode, Refusal
from vmofs_mount.linux.mountinfo import FILESYSTEM_TYPE, mount_at, mounts


def runtime_directory() -> Path:
    """Return the directory for what lives as long as the user is logged in.

    Raises:
        Refusal: There is something else in its place.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given)
    path = Path(f"/tmp/vmofs-{os.getuid()}")  # noqa: S108 - as other programs do; whose it is, is looked at
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Refusal(f"{path} must be a directory of yours with mode 0700; set XDG_RUNTIME_DIR", ExitCode.OTHER)
    return path


def own_mount() -> Path:
    """Return where the user's own mount is, or will be."""
    return runtime_directory() / "vmofs"


def mount_above(path: Path) -> Path | None:
    """Return the mount point of the vmofs that a path lies in, whether anything is there or not."""
    places = [Path(mount.path) for mount in mounts() if mount.filesystem == FILESYSTEM_TYPE]
    inside = [place for place in places if path.is_relative_to(place)]
    return max(inside, key=lambda place: len(place.parts), default=None)


def answers(mountpoint: Path) -> bool:
    """Return whether a vmofs is mounted there, and its daemon lives."""
    mount = mount_at(str(mountpoint))
    with suppress(OSError):
        # Attributes like this one are always asked for. That a file exists the kernel says of a dead mount too.
        is_ours = mount is not None and mount.filesystem == FILESYSTEM_TYPE
        return is_ours and bool(os.getxattr(mountpoint, "user.vmofs.pid"))
    return False


class Mounting:
    """Makes the user's own mount, while the caller does something else.

    It is a command of its own and no fork of this process: what the opener and this one have open must not stay open
    in a daemon.
    """

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._process: subprocess.Popen[bytes] | None = None
        self.is_new = False
        """Whether it was made by this."""
        if not answers(mountpoint):
            with suppress(OSError):  # what a dead daemon left behind cannot be looked at; the command removes it
                mountpoint.mkdir(mode=0o700, exist_ok=True)
            # -P: the user's working directory may have a folder of the same name.
            command = [sys.executable, "-P", "-m", "vmofs_mount.cli", "mount", str(mountpoint)]
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )

    def wait(self) -> None:
        """Wait until the mount answers.

        Raises:
            Refusal: It cannot be made.
        """
        if self._process is None:
            return
        _, said = self._process.communicate()
        # Another command may have made it at the same moment.
        if self._process.returncode and not answers(self._mountpoint):
            raise Refusal(said.decode(errors="replace").strip().removeprefix("vmofs: "), ExitCode.NO_MOUNT)
        self.is_new = self._process.returncode == 0


class Target(NamedTuple):
    """Where files are to appear."""

    mount: Path
    is_own: bool
    """It is the user's own mount, which is made if it is not there."""
    directory: str | None
    """Below ``vmo/``; None: one named after the host."""
    name: str | None
    """Of the one file; None: its own."""
    link: Path | None
    """A symbolic link to the file, or to be made in this directory for each file."""


def target_of(path: str | None, *, is_directory: bool) -> Target:
    """Return where a PATH of the command line leads; without one to the user's own mount.

    Raises:
        Refusal: It lies in a mount, but not below its ``vmo/``, or it is taken.
    """
    if path is None:
        return Target(own_mount(), True, None, None, None)
    where = Path(path).absolute()
    where = where.parent.resolve() / where.name
    mount = mount_above(where)
    goes_inside = is_directory or where.is_dir() or path.endswith("/")
    if mount is None:
        if where.is_symlink() or (where.exists() and not where.is_dir()):
            raise Refusal(f"{path} exists", ExitCode.USAGE)
        return Target(own_mount(), True, None, None, where)
    below = where.relative_to(mount).parts
    if not below or below[0] != "vmo":
        raise Refusal(f"{path} is in a vmofs; files of pagers are below {mount}/vmo", ExitCode.USAGE)
    if goes_inside:
        return Target(mount, False, "/".join(below[1:]), None, None)
    return Target(mount, False, "/".join(below[1:-1]), below[-1], None)
