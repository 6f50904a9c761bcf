"""Symbolic links, FIFOs and sockets that programs make: the kernel does what they are for."""

from __future__ import annotations

import stat

from vmofs_mount.tree.inodes import Node


class Symlink(Node):
    """A symbolic link, to anywhere: the kernel follows it."""

    __slots__ = ("target",)

    TYPE = stat.S_IFLNK

    def __init__(self, uid: int, gid: int, target: bytes) -> None:
        super().__init__(0o777, uid, gid)
        self.target = target

    @property
    def size_bytes(self) -> int:
        """The length of the target."""
        return len(self.target)


class PlainFifo(Node):
    """A named pipe that is nobody's port. The kernel carries it."""

    TYPE = stat.S_IFIFO


class Socket(Node):
    """What a socket is bound to. The kernel carries it."""

    TYPE = stat.S_IFSOCK
