"""Where a mount is, for threads of the daemon that need something of it by path.

A mount may be moved (``mount --move``), be bound elsewhere and unmounted here, lie below a directory that is renamed,
or be left in another mount namespace only. Nobody is told of most of that. So the root is opened by the path that it
had, and if that leads elsewhere it is looked for in the lists of mounts.

No descriptor of it is kept: that would keep the mount busy.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vmofs_mount.linux.mountinfo import mount_at, mounts, namespaces

_REST_SECONDS = 1.0
"""How long other mount namespaces are not looked through again: that is a look at each process."""

_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""Errors that say nothing of where the mount is."""


class Place:
    """Where a mount is: its path, and ``st_dev`` of its files, by which a path that leads elsewhere is told."""

    def __init__(self, mountpoint: str, device: int) -> None:
        self._path = mountpoint
        self.device = device
        self._looked_at = -_REST_SECONDS

    @classmethod
    def of(cls, mountpoint: str) -> Place:
        """Return the place of the topmost mount at a path; the device 0 is no mount's."""
        mount = mount_at(mountpoint)
        return cls(mountpoint, 0 if mount is None else os.makedev(0, mount.minor))

    @property
    def minor(self) -> int:
        """The minor number, as /proc/PID/maps has it."""
        return os.minor(self.device)

    @contextmanager
    def opened_root(self, flags: int = os.O_PATH) -> Iterator[int]:
        """Open the root of the mount, for a moment: it keeps the mount busy. In a worker thread.

        Raises:
            OSError: it is nowhere where it could be opened, or no descriptor is left.
        """
        root = self._open(flags)
        try:
            yield root
        finally:
            os.close(root)

    def _open(self, flags: int) -> int:
        for path in self._paths():
            try:
                root = os.open(path, flags | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno in _SCARCE:
                    raise
                continue
            try:
                is_ours = os.fstat(root).st_dev == self.device
            except OSError:
                is_ours = False
            if is_ours:
                self._path = path
                return root
            os.close(root)  # another mount lies over it, or was mounted there since
        raise FileNotFoundError(errno.ENOENT, f"the mount is neither at {self._path} any more, nor found elsewhere")

    def _paths(self) -> Iterator[str]:
        yield self._path
        device = f"0:{self.minor}"
        yield from (mount.path for mount in mounts() if mount.device == device and mount.root == "/")
        now = time.monotonic()
        if now - self._looked_at < _REST_SECONDS:
            return
        self._looked_at = now
        for process in namespaces():
            with suppress(OSError):  # it has ended
                for mount in mounts(process):
                    if mount.device == device and mount.root == "/":
                        yield f"/proc/{process}/root{mount.path}"
