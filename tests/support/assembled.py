"""A mount that is put together but not mounted: no FUSE, no kernel."""

from __future__ import annotations

import trio

from vmofs.core.requests.system import System
from vmofs_mount.assembly.mount import AssembledMount, assemble
from vmofs_mount.daemon.options import MountOptions
from vmofs_mount.front.session import Session
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.loop.scheduler import Turns
from vmofs_mount.tree.inodes import Directory
from vmofs_mount.tree.limits import Limits


def assembled(nursery: trio.Nursery) -> AssembledMount:
    """Return a mount whose messages to the kernel reach nobody."""
    kernel = Kernel(-1)
    kernel.close()
    session = Session("/nowhere", kernel, nursery, Turns())
    return assemble(System(), MountOptions(allow_other=True), Limits(), session)


def directory(mount: AssembledMount, path: str) -> Directory:
    """Return a directory of a mount."""
    found = mount.parts.tree.resolve(path)
    assert isinstance(found, Directory)
    return found
