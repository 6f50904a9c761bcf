"""A mount that is put together but not mounted: no FUSE, no kernel."""

from __future__ import annotations

import trio

from vmofs.core.pages.content import Bytes
from vmofs.core.requests.system import System
from vmofs_mount.assembly.mount import AssembledMount, assemble
from vmofs_mount.daemon.options import MountOptions
from vmofs_mount.front.device import Device
from vmofs_mount.front.session import Session
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.scheduler import Taken, Turns
from vmofs_mount.tree.inodes import Directory
from vmofs_mount.tree.limits import Limits


class NoDevice:
    """A device from which nothing comes. It keeps the answers that it is given."""

    def __init__(self) -> None:
        self.unique = self.thread = 0
        self.answers: dict[int, bytes | Exception] = {}

    def fileno(self) -> int:
        """Return no descriptor."""
        return -1

    def take(self) -> Taken:
        """Find nothing."""
        return Taken.NOTHING

    def collect(self) -> None:
        """Find no answer of libfuse's."""

    def answer(self, unique: int, data: Bytes) -> None:
        """Keep an answer."""
        self.answers[unique] = bytes(data)

    def refuse(self, unique: int, error: Exception) -> None:
        """Keep an error."""
        self.answers[unique] = error


def assembled(nursery: trio.Nursery, device: Device | NoDevice | None = None) -> AssembledMount:
    """Return a mount whose messages to the kernel reach nobody. Its answers go to ``device``, if there is one."""
    kernel, device = Kernel(-1), device or NoDevice()
    kernel.close()
    session = Session("/nowhere", kernel, nursery, Turns(device), device)
    return assemble(System(), MountOptions(allow_other=True), Limits(), session)


def directory(mount: AssembledMount, path: str) -> Directory:
    """Return a directory of a mount."""
    found = mount.parts.tree.resolve(path)
    assert isinstance(found, Directory)
    return found
